#!/usr/bin/env bash
# A template of nbconvert that extends display_priority.j2 drops what a cell returns and keeps what it displays; and
# HTMLExporter parses and writes the finished page once more.
#
# Versions: nbconvert 7.17.2, nbformat 5.11.0, jinja2 3.1.6, beautifulsoup4 4.15.0.
#
# Guess from the documentation, before the run: a template that extends the base templates and fills the blocks
# data_html and data_png shows both kinds of output, execute_result and display_data, since both hold mime bundles and
# "display_priority" chooses among a bundle's forms; the exporter's result is the template's text, to the byte.
#
# Behaviour.
#  - null.j2 gives the two kinds two blocks. Only the block of display_data holds data_priority; that of execute_result
#    is empty, and the templates that come with nbconvert fill it themselves. A template of one's own that does not is
#    silent about the last line of every cell. No warning is given.
#  - HTMLExporter.from_notebook_node hands the text to BeautifulSoup and returns what that writes: void elements get a
#    slash, attributes without quotes get them, an entity becomes its character. TemplateExporter with the same template
#    returns the template's text.
#
# Output seen:
#   displayed: True, returned: False
#   returned, with its own block: True
#   TemplateExporter keeps the text: True
#   HTMLExporter writes: <img alt="a — b" src="x.png"/>
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q nbconvert==7.17.2 nbformat==5.11.0 jinja2==3.1.6 beautifulsoup4==4.15.0
cat > "$work/try.py" <<'PY'
from jinja2 import DictLoader
from nbconvert.exporters.html import HTMLExporter
from nbconvert.exporters.templateexporter import TemplateExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output

DATA = """{%- extends "display_priority.j2" -%}
{%- block data_html %}{{ output.data["text/html"] }}{% endblock -%}
"""
BOTH = DATA + "{%- block execute_result %}{{ self.data_priority() }}{% endblock -%}\n"


def shown(exporter, template, *kinds):
    outputs = [new_output(kind, {"text/html": text}) for kind, text in kinds]
    notebook = new_notebook(cells=[new_code_cell("x", outputs=outputs)])
    loader = DictLoader({"page.j2": template})
    options = dict(template_name="base", template_file="page.j2", extra_loaders=[loader], exclude_input=True)
    return exporter(**options).from_notebook_node(notebook)[0]


kinds = ("display_data", "<b>displayed</b>"), ("execute_result", "<b>returned</b>")
page = shown(TemplateExporter, DATA, *kinds)
print(f"displayed: {'displayed' in page}, returned: {'returned' in page}")
print(f"returned, with its own block: {'returned' in shown(TemplateExporter, BOTH, *kinds)}")
image = ("display_data", '<img alt="a &mdash; b" src=x.png>')
print(f"TemplateExporter keeps the text: {image[1] in shown(TemplateExporter, DATA, image)}")
page = shown(HTMLExporter, DATA, image)
print("HTMLExporter writes:", page[page.index("<img") : page.index(">", page.index("<img")) + 1])
PY
"$work/venv/bin/python" "$work/try.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
displayed: True, returned: False
returned, with its own block: True
TemplateExporter keeps the text: True
HTMLExporter writes: <img alt="a — b" src="x.png"/>
SEEN
