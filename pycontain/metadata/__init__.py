"""One sqlite database for each store: images, snapshots, leases, containers, and which process each belongs to."""

from pycontain.metadata.containers import ContainerRecord, ContainerRecords
from pycontain.metadata.database import Database
from pycontain.metadata.images import ImageRecord, Images
from pycontain.metadata.leases import Lease, Leases
from pycontain.metadata.owners import Owners
from pycontain.metadata.snapshots import Kind, SnapshotRecord, SnapshotRecords

__all__ = [
    "ContainerRecord", "ContainerRecords", "Database", "ImageRecord", "Images", "Kind", "Lease", "Leases", "Owners",
    "SnapshotRecord", "SnapshotRecords",
]
