"""The small text: that it is the one that was recorded, and how it is cut into pieces."""

import hashlib
import subprocess

import make_prose
import pytest

from study import ROOT, corpus


def text_of(inputs, targets):
    """The pieces as text."""
    symbols = corpus.symbols()
    whole = [[*x.tolist(), int(y[-1])] for x, y in zip(inputs, targets, strict=True)]
    return ["".join(symbols[code] for code in piece) for piece in whole]


def test_the_file_is_small_and_the_recorded_one():
    content = corpus.TEXT.read_bytes()
    assert len(content) <= 60_000
    assert hashlib.sha256(content).hexdigest() == corpus.SHA256
    assert corpus.read() == content.decode("ascii")


def test_another_text_is_refused(tmp_path):
    other = tmp_path / "other.txt"
    other.write_bytes(corpus.TEXT.read_bytes() + b" ")
    with pytest.raises(corpus.CorruptTextError, match="must have the SHA-256"):
        corpus.read(other)


def test_it_is_made_of_the_chapters_as_they_stood():
    known = ["git", "cat-file", "-e", f"{make_prose.REVISION}^{{commit}}"]
    if subprocess.run(known, cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("the revision is not in this clone")
    assert make_prose.text() == corpus.read()


def test_only_plain_sentences_are_taken():
    kept = make_prose.sentences(
        "# Heading\n\nA plain one. One with $x$. *Another* plain one, at last!\n\n"
        ":::{note}\nInside of it.\n:::\n\n- a list. Of things here.\n\nIn {doc}`polarity` it is."
    )
    assert kept == ["A plain one.", "Another plain one, at last!"]


def test_pieces_are_disjoint_and_cover_the_text():
    chosen, rest = corpus.sequences(200, 32, seed=3)
    assert chosen[0].shape == chosen[1].shape == (200, 32)
    pieces = text_of(*chosen) + text_of(*rest)
    whole = corpus.read()
    cut = [whole[i : i + 33] for i in range(0, len(whole) - 32, 33)]
    assert sorted(pieces) == sorted(cut)


def test_a_seed_draws_its_own_pieces():
    first, again, other = (text_of(*corpus.sequences(50, 32, seed=s)[0]) for s in (0, 0, 1))
    assert first == again
    assert set(first) != set(other)


def test_more_pieces_than_there_are_are_refused():
    with pytest.raises(ValueError, match="n must be below the 1212 pieces"):
        corpus.sequences(1212, 32, seed=0)
