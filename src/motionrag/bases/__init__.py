"""Base models: one file each, and the attachment of a Motion-Adapter to an unmodified diffusers pipeline."""
