"""The notebook lab for people who study transformer encoders.

Names are imported on first use, so that `import bertvision` costs nothing.
"""
__version__ = "0.1.0"

from importlib import import_module

from bertvision.core import executed as _executed

_executed.install()  # before any other module is imported, so that each is marked

_HOMES = {
    "data.tasks": ("Task", "get_task", "register_task", "all_tasks"),
    "data.sources": ("load_task",),
    "data.splits": ("split", "subset"),
    "models.registry": ("all_encoders",),
    "models.encoders": ("load_encoder",),
    "runs.recipes": ("Recipe",),
    "heads.specs": ("HeadRecipe",),
    "states.store": ("open_states",),
    "states.stream": ("Stream", "extract", "stream_splits"),
    "training.trainer": ("fit", "predict"),
    "heads.bank": ("Bank", "fit_heads"),
    "training.search": ("search",),
    "evaluation.ensembles": ("combine",),
    "data.published": ("published",),
    "engine.grid": ("load_study",),
    "engine.local": ("run_study",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = ["__version__", *_HOME_OF]


def __getattr__(name):
    if name not in _HOME_OF:
        raise AttributeError(f"module 'bertvision' has no attribute {name!r}")
    value = getattr(import_module(f"bertvision.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
