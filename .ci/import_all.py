"""Import every module of the installed motionrag, and say how many there are."""

import importlib
import importlib.util
import pkgutil

import motionrag

for extra in ("peft", "torchao", "pytest"):
    assert importlib.util.find_spec(extra) is None, f"{extra} is installed: this is no bare environment"
names = [module.name for module in pkgutil.walk_packages(motionrag.__path__, "motionrag.")]
for name in names:
    if name != "motionrag.__main__":  # importing it runs the command line
        importlib.import_module(name)
assert len(names) > 15, names
print(f"{len(names)} modules import with no extra installed")
