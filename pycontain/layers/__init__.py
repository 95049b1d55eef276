"""Layers of images: read from a tar and applied to a directory, and made from the changes of a snapshot."""
