"""Every page is free, held or kept, and what is found is what was named."""

from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.generate.blocks import Blocks
from arriero.model.config import LlamaConfig
from arriero.model.paged_cache import PAGE, PagedCache

TINY = LlamaConfig.of(dim=4, n_layers=1, n_heads=1, n_kv_heads=1, vocab_size=8, max_seq_len=128)


def make(pages: int) -> Blocks:
    return Blocks(PagedCache(TINY, pages))


def test_a_chain_is_found_page_by_page_and_only_behind_its_beginning():
    blocks = make(4)
    first, second = blocks.take(2)
    chain = blocks.name(first, "law", [1] * PAGE)
    blocks.name(second, chain, [2] * PAGE)
    assert blocks.find("", [1] * PAGE) is None
    assert blocks.find("law", [2] * PAGE) is None
    page, behind = blocks.find("law", [1] * PAGE)
    assert (page, behind) == (first, chain)
    assert blocks.find(behind, [2] * PAGE)[0] == second
    assert blocks.is_shared(first)


def test_pages_that_nobody_holds_are_kept_until_there_is_no_other_and_the_last_of_a_row_goes_first():
    blocks = make(3)
    pages = blocks.take(2)
    chain = blocks.name(pages[0], "", [1] * PAGE)
    blocks.name(pages[1], chain, [2] * PAGE)
    blocks.release(pages)
    assert (blocks.room, blocks.held) == (3, 0)
    blocks.take(2)
    assert blocks.find("", [1] * PAGE) == (pages[0], chain)
    assert blocks.find(chain, [2] * PAGE) is None
    assert blocks.room == 0


def test_an_equal_page_read_twice_leads_on_as_the_first():
    blocks = make(4)
    one, two = blocks.take(2)
    chain = blocks.name(one, "", [1] * PAGE)
    assert blocks.name(two, "", [1] * PAGE) == chain
    blocks.release([two])
    assert blocks.find("", [1] * PAGE)[0] == one


def test_nothing_is_found_after_forgetting():
    blocks = make(4)
    pages = blocks.take(2)
    chain = blocks.name(pages[0], "", [1] * PAGE)
    blocks.release(pages)
    blocks.forget()
    assert blocks.find("", [1] * PAGE) is None
    assert blocks.name(blocks.take(1)[0], "", [1] * PAGE) != chain
    assert blocks.room == 3


def test_a_page_taken_again_holds_zeros():
    blocks = make(1)
    (page,) = blocks.take(1)
    blocks.cache.k[:, page] = float("nan")
    blocks.release([page])
    assert blocks.take(1) == [page]
    assert bool((blocks.cache.k[:, page] == 0).all())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pages_are_counted_whatever_is_done(data):
    blocks = make(6)
    rows: list[list[int]] = []
    for _ in range(data.draw(st.integers(0, 40))):
        what = data.draw(st.sampled_from(["take", "share", "release", "name", "find", "forget"]))
        tokens = [data.draw(st.integers(0, 2))] * PAGE
        if what == "take":
            rows.append(blocks.take(min(data.draw(st.integers(1, 3)), blocks.room)))
        elif what == "find":
            if found := blocks.find("", tokens):
                rows.append([found[0]])
        elif what == "forget":
            blocks.forget()
        elif rows:
            row = data.draw(st.sampled_from(rows))
            if what == "share":
                rows.append(blocks.share(row))
            elif what == "release":
                rows.remove(row)
                blocks.release(row)
            elif row and not blocks.is_shared(row[0]) and row[0] not in blocks._keys:
                blocks.name(row[0], "", tokens)
        assert blocks.held == len({page for row in rows for page in row})
        assert blocks.room == 6 - blocks.held
    for row in rows:
        blocks.release(row)
    assert blocks.held == 0
    assert len(set(blocks.take(6))) == 6
