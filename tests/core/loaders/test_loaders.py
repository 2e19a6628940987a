"""Files to pages: all text and no code, headings where they are, nothing read but the file."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from m3plugins import Document, loaders
from m3plugins.loaders import Page, load


@pytest.fixture
def page(tmp_path: Path):
    def loaded(name: str, content: bytes | str) -> Page:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load(path)

    return loaded


@pytest.fixture
def html(page):
    return lambda content: page("page.html", content)


@pytest.fixture
def rst(page):
    return lambda content: page("page.rst", content)


def outline(page: Page) -> list[tuple[str, str]]:
    """The headings, each with what the text has at its place."""
    return [(heading.text, page.text[heading.start : heading.end].strip()) for heading in page.headings]


# Text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_says_the_encoding(page, encoding: str):
    assert page("a.txt", "ein Füchslein\r\nund 狐\r".encode(encoding)) == Page("ein Füchslein\nund 狐\n")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\xff\xfe\x00", b"caf\xe9", b"PK\x03\x04\x00\x00", b"\x89PNG\r\n"])
@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_what_is_no_text_is_refused_with_what_to_do(page, name: str, content: bytes):
    with pytest.raises(ValueError, match=r"not readable as UTF-\S+ text: .*; save it as UTF-8"):
        page(name, content)


def test_an_unknown_ending_and_what_is_no_file_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"must end in \.txt, .*, got a.pdf"):
        load(tmp_path / "a.pdf")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(ValueError, match="not a regular file"):
        load(tmp_path / "folder.txt")


# Markdown


def test_markdown_is_kept_as_it_is_and_its_headings_are_found(page):
    text = "Intro\n\n# One `a` *b*\ntext\n\nTwo [x](y)\n----\n\n### Three ###\n"
    found = page("a.md", text)
    assert (found.text, found.title) == (text, "One a b")
    assert outline(found) == [
        ("One a b", "# One `a` *b*"),
        ("Two x", "Two [x](y)\n----"),
        ("Three", "### Three ###"),
    ]


@pytest.mark.parametrize(
    "text", ["```\n# code\n```", "    # code", "> # quoted", "- # listed", "#none", "---\n# a comment\n---\n", "#"]
)
def test_what_only_looks_like_a_heading_of_markdown_is_none(page, text: str):
    assert page("a.md", text).headings == ()


def test_headings_after_front_matter_and_with_windows_lines_are_in_their_places(page):
    found = page("a.md", "---\r\ntitle: x\r\n---\r\n# One\r\n\r\ntext\r\n# Two")
    assert outline(found) == [("One", "# One"), ("Two", "# Two")]


def test_a_thematic_break_at_the_start_of_markdown_is_no_front_matter(page):
    found = page("a.md", "---\n\n# Real title\n\ntext\n\n---\n\n## More\n")
    assert (found.title, [heading.text for heading in found.headings]) == ("Real title", ["Real title", "More"])


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("title: Red foxes", "Red foxes"),
        ("lang: en\ntitle:  'Foxes: a guide' # by us", "Foxes: a guide"),
        ('title: "Foxes"', "Foxes"),
        ("title: C# notes # draft", "C# notes"),
        ("subtitle: Dogs", "One"),
        ("title:", "One"),
        ("title: >\n  folded", "One"),
        ("title: plain\n  folded", "One"),
    ],
)
def test_a_title_in_front_matter_is_that_of_markdown(page, line: str, title: str):
    assert page("a.md", f"---\n{line}\n---\n# One\n\ntitle: Two\n").title == title


# HTML


def test_html_is_its_visible_text_a_block_a_line(html):
    found = html(
        "<html><head><title>A &amp; B</title><style>p {}</style><script>alert(1)</script><body>"
        "<!-- hidden --><h1>Head <em>one</em></h1><p>para  one\n two<b>bold</b>text</p><template>no</template>"
        "<pre>  code\n    more</pre><ul><li>a<li>b</ul><table><tr><td>1<td>2</tr></table><h2> </h2><h3>Three</h3>end"
    )
    assert found.text == "Head one\npara one twoboldtext\n  code\n    more\na\nb\n1 2\nThree\nend"
    assert found.title == "A & B"
    assert outline(found) == [("Head one", "Head one"), ("Three", "Three")]


def test_the_title_of_html_without_one_is_its_first_heading(html):
    assert html("<h2>Second</h2><h1>First</h1>").title == "Second"
    assert html("<p>text").title == ""


def test_the_title_of_a_drawing_is_not_that_of_html(html):
    drawing = "<svg><title>Logo</title></svg>"
    assert html(f"{drawing}<h1>Head</h1>").title == "Head"
    assert html(f"<body>{drawing}<title>Page</title>").title == "Page"


@pytest.mark.parametrize(
    ("content", "text", "title"),
    [
        ("<h1><![CDATA[Head]]></h1>", "Head", "Head"),
        ("<p>a</p><h1><![CDATA[Head]]></h1>", "a\nHead", "Head"),
        ("<h1>a<br>b</h1>", "a\nb", "a b"),
        ("<h1>a<p>b</p> c</h1>", "a\nb\nc", "a b c"),
    ],
)
def test_headings_of_html_say_what_the_text_says(html, content: str, text: str, title: str):
    found = html(content)
    Document(id="a", text=found.text, headings=found.headings).check()
    assert (found.text, found.title, [heading.text for heading in found.headings]) == (text, title, [title])


@pytest.mark.parametrize("content", ["<h1>Head </h1>", "<h1> <b>Head</b> \n", "<pre>\n <h1>Head </h1>", "<h1><h2>Head"])
def test_headings_of_html_are_within_the_text(html, content: str):
    found = html(content)
    Document(id="a", text=found.text, headings=found.headings).check()
    assert outline(found) == [("Head", "Head")]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('<meta charset="windows-1251"><p>лиса'.encode("cp1251"), "лиса"),
        ('<meta charset="iso-8859-1"><p>\x93caf\xe9\x94'.encode("latin-1"), "“café”"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=gbk"><p>狐'.encode("gbk"), "狐"),
        ("<p>狐".encode(), "狐"),
        ('<meta charset="utf-16"><p>狐'.encode(), "狐"),
        ('<meta charset="utf-16le"><p>狐'.encode(), "狐"),
        ('<meta charset="UTF-16BE"><p>狐'.encode(), "狐"),
        ('\ufeff<meta charset="latin-1"><p>狐'.encode(), "狐"),
    ],
)
def test_html_is_read_in_the_encoding_that_it_declares(html, content: bytes, text: str):
    assert html(content).text == text


@pytest.mark.parametrize("charset", ["utf-8", "nonsense", "hex"])
def test_html_that_is_not_in_its_encoding_is_refused(html, charset: str):
    with pytest.raises(ValueError, match=f"not readable as {charset.upper()} text"):
        html(f'<meta charset="{charset}"><p>caf\xe9'.encode("latin-1"))


def test_html_may_nest_deeper_than_python_does(html):
    assert html("<div>" * 3000 + "text" + "</div>" * 2000).text == "text"


# reStructuredText


def test_restructuredtext_is_its_text_with_the_titles_of_sections(rst):
    found = rst(
        "Title\n=====\n\nIntro *em* and `link <http://x>`_.\n\n.. comment\n\nPart ``b``\n------\n\n- item\n\n"
        ".. note:: Take care.\n\n.. code-block:: python\n\n   import os\n"
    )
    assert found.text == "Title\nIntro em and link.\nPart b\nitem\nTake care.\nimport os"
    assert (found.title, outline(found)) == ("Title", [("Title", "Title"), ("Part b", "Part b")])


def test_what_docutils_does_not_know_is_kept_as_it_is_written(rst, capsys):
    found = rst("See :func:`os.walk`.\n\n.. method:: poll()\n\n   Has it ended?\n\nBad\n--\n")
    assert "See :func:`os.walk`." in found.text and "Has it ended?" in found.text and "Bad" in found.text
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "directive",
    [".. include:: {}", ".. literalinclude:: {}", ".. csv-table::\n   :file: {}", ".. raw:: html\n   :file: {}"],
)
def test_restructuredtext_reads_no_other_file(rst, tmp_path: Path, directive: str):
    (tmp_path / "secret.txt").write_text("hunter2")
    assert "hunter2" not in rst(directive.format(tmp_path / "secret.txt") + "\n").text


def test_raw_parts_of_restructuredtext_are_no_text(rst):
    assert rst("before\n\n.. raw:: html\n\n   <script>alert(1)</script>\n\nafter\n").text == "before\nafter"


# The extra


@pytest.mark.parametrize(
    ("module", "package"), [("html", "bs4"), ("restructuredtext", "docutils"), ("markdown", "markdown_it")]
)
def test_without_its_package_a_format_names_the_command(monkeypatch: pytest.MonkeyPatch, module: str, package: str):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"m3plugins.loaders.{module}", raising=False)
    monkeypatch.delattr(loaders, module, raising=False)
    with pytest.raises(ImportError, match=r'pip install "m3plugins\[loaders\]"'):
        import_module(f"m3plugins.loaders.{module}")
