"""Let pages of the site show the results in ``model_cards``, which are outside the folder of the documentation.

In the repository a page links to ``../model_cards/...``. Here the linked files join the site; a link to a folder, which
a site cannot show, becomes plain text. Sphinx roles in docstrings become code.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[([^\]]*)\]\(\.\./(model_cards/[^)#]+)\)")
ROLE = re.compile(r":(?:func|class|mod|meth|data|attr):<code>~?\.*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the linked files to the site."""
    for page in files.documentation_pages():
        for _, target in LINK.findall(page.content_string):
            if (ROOT / target).is_file() and files.get_file_from_path(target) is None:
                files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point the links into the site."""
    return LINK.sub(lambda link: link[1] if (ROOT / link[2]).is_dir() else f"[{link[1]}]({link[2]})", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Drop the roles, which the renderer of docstrings does not know."""
    return ROLE.sub("<code>", html)
