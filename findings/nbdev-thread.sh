#!/usr/bin/env bash
# nbdev-test of nbdev 3.3 runs the cells of a notebook outside the main thread, even with no worker processes: a cell
# that installs a signal handler passes with nbdev 2.4 and with Jupyter, and raises there.
#
# Versions: nbdev 2.4.14 (fastcore 1.14.5, execnb 0.1.18, fastgit 0.0.6, ghapi 1.1.1), nbdev 3.3.26 (fastcore 2.2.41).
#
# Guess from the documentation ("n_workers: number of workers, 0 means run in the main process"), before the run: with
# 0 workers both versions run the cells in the main thread of the command.
#
# Behaviour.
#  - 2.4.14: the main thread, in which signal.signal works.
#  - 3.3.26: another thread, so that each cell can have a time limit. signal.signal raises "signal only works in main
#    thread of the main interpreter". A library notebook that shows what its code does on Ctrl-C has to start a
#    process for it.
#
# Output seen:
#   2.4.14: main thread True, handler set
#   3.3.26: main thread False, handler ValueError
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cat > "$work/make.py" <<'PY'
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

place = Path(sys.argv[1])
(place / "x").mkdir(parents=True)
(place / "x" / "__init__.py").write_text("")
(place / "pyproject.toml").write_text(
    '[project]\nname = "x"\nversion = "0.1"\n[tool.nbdev]\nlib_path = "x"\nnbs_path = "nbs"\n'
)
(place / "settings.ini").write_text(
    "[DEFAULT]\nrepo = x\nlib_name = x\nversion = 0.1\nmin_python = 3.9\nlicense = apache2\nnbs_path = nbs\n"
    "lib_path = x\nuser = u\nauthor = a\nauthor_email = a@example.org\ndescription = d\nkeywords = k\nbranch = main\n"
    "doc_path = _docs\ncopyright = c\n"
)
cell = """
import signal, threading
from pathlib import Path

main = threading.current_thread() is threading.main_thread()
try:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    handler = "set"
except ValueError as e:
    handler = type(e).__name__
Path(r"{}").write_text(f"main thread {{main}}, handler {{handler}}")
""".format(place / "seen.txt")
(place / "nbs").mkdir()
kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
nbformat.write(new_notebook(cells=[new_code_cell(cell)], metadata=kernel), place / "nbs" / "a.ipynb")
PY
try_with() { # name, command, option, packages
  local name="$1" command="$2" option="$3"
  shift 3
  python3 -m venv "$work/$name"
  "$work/$name/bin/pip" install -q nbformat ipykernel "$@"
  "$work/$name/bin/python" "$work/make.py" "$work/in-$name"
  (cd "$work/in-$name" && "$work/$name/bin/$command" "$option" 0 >/dev/null)
  echo "$name: $(cat "$work/in-$name/seen.txt")"
}
{
  try_with 2.4.14 nbdev_test --n_workers nbdev==2.4.14 fastcore==1.14.5 execnb==0.1.18 fastgit==0.0.6 ghapi==1.1.1
  try_with 3.3.26 nbdev-test --n-workers nbdev==3.3.26 fastcore==2.2.41
} | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
2.4.14: main thread True, handler set
3.3.26: main thread False, handler ValueError
SEEN
