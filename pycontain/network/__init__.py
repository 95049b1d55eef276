"""Networks of containers. So far: network namespaces that have a name and outlive the tasks that use them."""

from pycontain.network.namespace import NetworkNamespace

__all__ = ["NetworkNamespace"]
