"""Import the libraries that most notebooks import, but not the package: each notebook imports that for itself."""

from importlib import import_module

LIBRARIES = (
    "accelerate",
    "datasets",
    "h5py",
    "IPython",
    "matplotlib.pyplot",
    "nbdev.test",
    "pandas",
    "sklearn.linear_model",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
)

for library in LIBRARIES:
    import_module(library)
