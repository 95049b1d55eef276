"""Snapshotters: directory trees that build upon each other, one for each layer, and the writable ones of containers.

`base` is the protocol, `choose` gives the snapshotter of a store; each other module is one way to keep the trees.
"""
