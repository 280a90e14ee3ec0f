"""How well generated clips move: the object's path, its looks, and the kind of its motion."""
