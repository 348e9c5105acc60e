"""What every vector store must do, over both of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from retrieval.errors import BadRequest, StoreMismatch
from retrieval.records import Case
from retrieval.store import VectorStore, open_store
from tests.retrieval.conftest import DIMENSION, IDENTITY, make_cases

Open = Callable[..., VectorStore]


@pytest.fixture
def store(url: str, opened: Open) -> VectorStore:
    """24 cases."""
    store = opened(url)
    cases, vectors = make_cases(24)
    store.upsert(cases, vectors, [f"jpeg {case.id}".encode() for case in cases])
    return store


def exact(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ (query / np.linalg.norm(query))


def test_search_is_exact_and_in_order(store: VectorStore) -> None:
    cases, vectors = make_cases(24)
    scores = exact(vectors, vectors[3])
    hits = store.search(vectors[3:5], 6)
    assert len(hits) == 2
    assert [hit.case.id for hit in hits[0]] == [f"c{i}" for i in np.argsort(-scores)[:6]]
    assert np.allclose([hit.score for hit in hits[0]], np.sort(scores)[::-1][:6], atol=1e-5)
    assert hits[0][0].case == cases[3]
    assert hits[0][0].as_close is None


def test_fewer_cases_than_asked_for(store: VectorStore) -> None:
    assert len(store.search(make_cases(1)[1], 100)[0]) == 24


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"organ": "liver"}, {i for i in range(24) if i % 2 == 0}),
        ({"organ": "liver", "diagnosis": "a"}, {i for i in range(24) if i % 6 == 0}),
        ({"diagnosis": ["a", "b"]}, {i for i in range(24) if i % 3 < 2}),
        ({"kind": "overview"}, {i for i in range(24) if i % 2}),
        ({"group": "g3"}, {6, 7}),
    ],
)
def test_filters(store: VectorStore, where: dict[str, str], expected: set[int]) -> None:
    hits = store.search(make_cases(1)[1], 24, where)[0]
    assert {hit.case.id for hit in hits} == {f"c{i}" for i in expected}
    assert set(store.ids(where)) == {f"c{i}" for i in expected}


def test_filter_errors_tell_what_there_is(store: VectorStore) -> None:
    query = make_cases(1)[1]
    with pytest.raises(BadRequest, match=r"no case has organ = 'spleen'; known values: liver, lung"):
        store.search(query, 3, {"organ": "spleen"})
    with pytest.raises(BadRequest, match=r"no case has 'colour' to filter by; there are: .*organ.*, kind"):
        store.search(query, 3, {"colour": "red"})
    with pytest.raises(BadRequest, match="no case matches all filters together"):
        store.search(query, 3, {"organ": "liver", "kind": "overview"})
    with pytest.raises(BadRequest, match="to filter by"):
        store.search(query, 3, {"x' OR 1=1 --": "red"})


def test_exclusion_of_groups_and_ids(store: VectorStore) -> None:
    query = make_cases(24)[1][4:5]
    found = {hit.case.id for hit in store.search(query, 24, None, ["g2", ""], ["c9"])[0]}
    assert found == {f"c{i}" for i in range(24)} - {"c4", "c5", "c9"}
    assert store.search(query, 3, {"group": "g2"}, ["g2"]) == [[]]


def test_no_group_is_nobodys_group(url: str, opened: Open) -> None:
    store = opened(url)
    store.upsert([Case("a"), Case("b")], make_cases(2)[1])
    assert len(store.search(make_cases(1)[1], 5, None, [""])[0]) == 2


def test_upsert_twice_changes_nothing(store: VectorStore) -> None:
    cases, vectors = make_cases(24)
    size = store.info().bytes
    store.upsert(cases, vectors)
    assert len(store) == 24
    assert store.info().bytes == pytest.approx(size, rel=0.5)
    assert store.ids() == [case.id for case in cases]
    assert store.get(["c7", "nobody", "c2"]) == [cases[7], cases[2]]


def test_upsert_replaces_record_and_vector(store: VectorStore) -> None:
    cases, vectors = make_cases(24)
    store.upsert([replace(cases[5], title="new", facts={})], -vectors[5:6])
    assert len(store) == 24
    hit = store.search(-vectors[5:6], 1)[0][0]
    assert (hit.case.id, hit.case.title, hit.case.facts) == ("c5", "new", {})
    assert hit.score == pytest.approx(1, abs=1e-5)
    assert "c5" not in {hit.case.id for hit in store.search(vectors[5:6], 5)[0]}


def test_relabel_keeps_the_vector(store: VectorStore) -> None:
    cases, vectors = make_cases(24)
    before = store.vectors(["c5"])
    store.relabel([replace(cases[5], organ="skin")])
    assert store.search(vectors[5:6], 3, {"organ": "skin"})[0][0].case.id == "c5"
    assert np.array_equal(store.vectors(["c5"]), before)


def test_delete(store: VectorStore) -> None:
    cases, vectors = make_cases(24)
    assert store.delete(["c5", "c6", "nobody"]) == 2
    assert len(store) == 22
    assert store.thumbnail(cases[5]) is None
    assert store.thumbnail(cases[7]) == b"jpeg c7"
    assert not {"c5", "c6"} & {hit.case.id for hit in store.search(vectors[5:6], 24)[0]}
    with pytest.raises(BadRequest, match="no case has the id 'c5'"):
        store.vectors(["c5"])
    store.upsert(cases[5:6], vectors[5:6])
    assert store.search(vectors[5:6], 1)[0][0].case.id == "c5"


def test_a_thumbnail_stays_while_another_case_has_its_pixels(store: VectorStore) -> None:
    cases, vectors = make_cases(24)
    twin = replace(cases[3], id="twin")
    store.upsert([twin], vectors[3:4])
    store.delete(["c3"])
    assert store.thumbnail(twin) == b"jpeg c3"


def test_regions_and_lookups(store: VectorStore) -> None:
    case = Case("r", image="/slides/s.svs", region=(10, 20, 300, 400), hash=make_cases(1)[0][0].hash)
    store.upsert([case], make_cases(1)[1])
    assert store.by_locator(["/slides/s.svs#10,20,300,400"]) == {case.locator: case}
    assert store.by_locator(["/slides/s.svs"]) == {}
    assert store.by_hash([case.hash])[case.hash].id == "c0"
    assert store.labels()[:2] == [("c0", "a", "g0"), ("c1", "b", "g0")]
    assert store.values("organ") == {"liver": 12, "lung": 12}
    assert store.values("kind") == {"field": 12, "overview": 12}


def test_notes(store: VectorStore) -> None:
    assert store.note("k") is None
    store.note("k", "v")
    store.note("k", "w")
    assert store.note("k") == "w"


def test_everything_is_there_after_reopening(url: str, store: VectorStore, opened: Open) -> None:
    cases, vectors = make_cases(24)
    before = store.search(vectors[:3], 5)
    store.close()
    again = opened(url, None, write=False)
    assert again.search(vectors[:3], 5) == before
    assert again.identity == IDENTITY
    assert again.info().groups == 12
    with pytest.raises(BadRequest, match="opened for reading only"):
        again.upsert(cases, vectors)


def test_a_reader_sees_what_is_written_meanwhile(url: str, store: VectorStore, opened: Open) -> None:
    reader = opened(url, write=False)
    cases, vectors = make_cases(30)
    assert len(reader) == 24
    store.upsert(cases[24:], vectors[24:])
    store.delete(["c0"])
    assert len(reader) == 29
    assert reader.search(vectors[29:30], 1)[0][0].case.id == "c29"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoder": "other-9", "encoder_name": "other"}, r"encoder tiny-0123.*not with encoder other-9"),
        ({"dimension": 8}, "dimension 16, not with dimension 8"),
        ({"preprocessing": "beef"}, "preprocessing f00d, not with preprocessing beef"),
        ({"metric": "euclid"}, "metric cosine, not with metric euclid"),
    ],
)
def test_a_store_of_another_encoder_is_refused(
    url: str, store: VectorStore, change: dict[str, object], named: str
) -> None:
    store.close()
    for write in (False, True):
        with pytest.raises(StoreMismatch, match=named) as caught:
            open_store(url, replace(IDENTITY, **change), write=write)
        assert "'tiny'" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_no_store_there(url: str) -> None:
    for identity, write in ((None, False), (IDENTITY, False), (None, True)):
        with pytest.raises(BadRequest, match=r"there is no case store at .*pathassist index build"):
            open_store(url, identity, write=write)


@pytest.mark.parametrize("bad", [np.zeros((1, DIMENSION)), np.full((1, DIMENSION), np.nan), np.ones((1, 3))])
def test_bad_vectors_change_nothing(store: VectorStore, bad: np.ndarray) -> None:
    with pytest.raises(BadRequest):
        store.upsert([Case("new")], bad)
    with pytest.raises(BadRequest):
        store.search(bad, 3)
    assert len(store) == 24


def test_bad_batches_change_nothing(store: VectorStore) -> None:
    vectors = make_cases(2)[1]
    for cases in ([Case("x"), Case("x")], [Case("x")], [Case(""), Case("y")], [Case("x"), Case("y\0")]):
        with pytest.raises(BadRequest):
            store.upsert(cases, vectors)
    with pytest.raises(BadRequest, match="k is 0"):
        store.search(vectors, 0)
    store.upsert([], np.empty((0, DIMENSION)))
    assert len(store) == 24


def test_an_empty_store(url: str, opened: Open) -> None:
    store = opened(url)
    assert len(store) == 0
    assert store.search(make_cases(1)[1], 5) == [[]]
    store.optimize()
    assert store.info().index == "flat"


def test_an_hnsw_index_gives_the_same_results(url: str, opened: Open) -> None:
    cases, vectors = make_cases(600)
    store = opened(url)
    store.upsert(cases[:400], vectors[:400])
    truth_before = store.search(vectors[:20], 5)
    store.optimize("hnsw")
    info = store.info()
    assert info.index == "hnsw"
    assert info.recall is not None
    assert info.recall >= 0.99
    for found, truth in zip(store.search(vectors[:20], 5), truth_before, strict=True):
        assert [hit.case for hit in found] == [hit.case for hit in truth]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in truth], abs=1e-5)
    store.upsert(cases[400:], vectors[400:])  # not in the index of a folder, in that of a server
    store.delete(["c1", "c500"])
    found = store.search(vectors[::6], 10, {"organ": "lung"}, ["g0", "g299"])
    store.optimize("flat")
    expected = store.search(vectors[::6], 10, {"organ": "lung"}, ["g0", "g299"])
    agree = [len({h.case.id for h in a} & {h.case.id for h in b}) / 10 for a, b in zip(found, expected, strict=True)]
    assert np.mean(agree) >= 0.99


def test_unknown_kinds_of_index_are_refused(store: VectorStore) -> None:
    with pytest.raises(BadRequest, match="no index is called 'tree'; allowed: auto, flat, hnsw, ivfpq"):
        store.optimize("tree")


@pytest.mark.parametrize("wrong", ["", "faiss:", "milvus:x", "no colon at all", "sqlite://x"])
def test_other_urls_are_refused(wrong: str) -> None:
    with pytest.raises(BadRequest, match=r"allowed: faiss:DIR or postgresql://user@host/database"):
        open_store(wrong)
