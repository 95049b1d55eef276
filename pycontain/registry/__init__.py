"""Images in registries: references to them, and a client of the OCI distribution protocol for pulling and pushing.

Nothing is imported here: `registry.reference` is on the way of every start from an image, the client is not."""
