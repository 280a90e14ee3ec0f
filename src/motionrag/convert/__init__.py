"""Published MotionRAG checkpoints to bundles, with an account of every key."""
