"""What is exported as a folder: files that others read, and pages for people."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from vla_retrieval.errors import InvalidInputError
from vla_retrieval.memory import MemoryOptions
from vla_retrieval.transfer import open_source
from vla_retrieval.transfer.page import ENTRIES_PER_PAGE
from vla_retrieval.types import NewEntry, Outcome

from .checked import entry, fill
from .conftest import DIM, OpenMemory
from .exporting import export, load
from .oracle import unit_vectors


class TestTheFolder:
    @pytest.fixture
    def folder(self, open_memory: OpenMemory, directory: Path, tmp_path: Path) -> Path:
        memory = open_memory()
        fill(memory, 450)
        memory.remove([7])
        memory.close()
        export(directory, tmp_path / "out", "directory")
        return tmp_path / "out"

    def test_has_a_line_and_a_row_per_entry(self, folder: Path) -> None:
        lines = (folder / "entries.jsonl").read_text(encoding="utf-8").split("\n")
        assert lines.pop() == ""
        assert [json.loads(line)["entry_id"] for line in lines] == [*range(1, 7), *range(8, 451)]
        assert "拿起 1" in lines[0]
        scenes = np.load(folder / "scenes.npy")
        np.testing.assert_array_equal(scenes[7], unit_vectors(450, DIM, 1)[8])
        assert scenes.shape == np.load(folder / "instructions.npy").shape == (449, DIM)

    def test_has_the_thumbnails_as_pictures(self, folder: Path) -> None:
        assert (folder / "thumbnails" / "9.jpg").read_bytes() == entry(9).thumbnail
        assert not (folder / "thumbnails" / "7.jpg").exists()

    def test_has_pages_that_link_to_each_other_and_show_every_entry(self, folder: Path) -> None:
        pages = [folder / "index.html", folder / "pages" / "2.html", folder / "pages" / "3.html"]
        found = [page.read_text(encoding="utf-8") for page in pages]
        assert [text.count("<li ") for text in found] == [200, 200, 49]
        assert 'href="pages/2.html"' in found[0]
        assert 'href="../index.html"' in found[1]
        assert 'href="../pages/3.html"' in found[1]
        assert 'src="../thumbnails/450.jpg"' in found[2]
        assert not any("loading=" in text for text in found)  # what is lazy may miss on paper

    def test_with_one_full_page_of_entries_has_no_links(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path
    ) -> None:
        """A next page would not be there."""
        fill(open_memory(), ENTRIES_PER_PAGE).close()
        export(directory, tmp_path / "out", "directory")
        page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
        assert page.count("<li ") == ENTRIES_PER_PAGE
        assert "<nav>" not in page
        assert "href=" not in page
        assert not (tmp_path / "out" / "pages").exists()

    def test_the_page_says_what_became_of_an_entry(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path
    ) -> None:
        memory = open_memory(options=MemoryOptions(merge_scene=0.9, merge_instruction=0.9))
        vectors = unit_vectors(1, DIM, 1)
        for _ in range(3):
            new = NewEntry("take the cup", 0, outcome=Outcome.FAILURE, pinned=True)
            memory.add([new], vectors, vectors)
        memory.close()
        export(directory, tmp_path / "out", "directory")
        page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
        (more,) = re.findall(r'<p class="more">(.*)</p>', page)
        said = more.split(" · ")
        assert '<span class="failure">failure</span>' in said
        assert "pinned" in said
        assert "2 more like it" in said

    def test_brings_a_typeface_for_chinese_with_its_licence(self, folder: Path) -> None:
        for page in (folder / "index.html", folder / "pages" / "3.html"):
            (source,) = re.findall(r'src: url\("(.*?)"\)', page.read_text(encoding="utf-8"))
            file = page.parent / source
            typeface = ImageFont.truetype(file, 20)
            assert all(typeface.getmask(one).getbbox() for one in "拿起桌子上的杯子，。")
            assert "SIL Open Font License" in (file.parent / "OFL.txt").read_text(encoding="utf-8")

    def test_without_chinese_brings_no_typeface(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path
    ) -> None:
        vectors = unit_vectors(1, DIM, 1)
        open_memory().add([NewEntry("pick up the cup – größer", 0)], vectors, vectors)
        open_memory().close()
        export(directory, tmp_path / "out", "directory")
        assert not (tmp_path / "out" / "fonts").exists()

    def test_the_page_runs_nothing_that_an_instruction_says(
        self, open_memory: OpenMemory, directory: Path, tmp_path: Path
    ) -> None:
        evil = "<script>alert(1)</script>&\"'"
        vectors = unit_vectors(1, DIM, 1)
        open_memory().add(
            [NewEntry(evil, 2**63 - 1, episode_id=evil, tags=(evil,), metadata={evil: evil})],
            vectors, vectors,
        )  # fmt: skip
        open_memory().close()
        export(directory, tmp_path / "out", "directory")
        page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
        assert "<script" not in page
        assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#x27;") == 5

    @pytest.mark.parametrize("name", ["entries.jsonl", "scenes.npy", "memory.json"])
    def test_that_lacks_a_file_is_refused(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        with pytest.raises(InvalidInputError, match=f"which lacks {name}"):
            open_source(folder)

    def test_a_picture_outside_is_not_read(
        self, folder: Path, open_memory: OpenMemory, tmp_path: Path
    ) -> None:
        path = folder / "entries.jsonl"
        path.write_text(path.read_text().replace("thumbnails/1.jpg", "../../../etc/passwd"))
        other = open_memory(directory=tmp_path / "other")
        load(other, folder)
        assert other.get(1, thumbnail=True).thumbnail == entry(1).thumbnail
