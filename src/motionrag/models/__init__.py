"""The method itself, in torch alone: resamplers, Motion Context Transformer, Motion-Adapter, bundle."""
