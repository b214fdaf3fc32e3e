"""Everything is said in settings.ini; `nbs/` travels in the wheel as the data of `bertvision._nbs`."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

extras = {name: cfg[f"{name}_requirements"].split() for name in ("offline", "cluster", "dev")}
extras["dev"] += extras["offline"] + extras["cluster"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    keywords=cfg["keywords"].split(),
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
    python_requires=f">={cfg['min_python']},<3.14",
    packages=[*find_packages(include=["bertvision", "bertvision.*"]), "bertvision._nbs"],
    package_dir={"bertvision._nbs": "nbs"},
    package_data={"bertvision._nbs": ["experiments/*.ipynb", "reports/*.ipynb", "studies/*.yaml", "published/*.csv"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": ["bertvision=bertvision._modidx:d"],
    },
    zip_safe=False,
)
