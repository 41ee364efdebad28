import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofyard.protocol.merkle import leaf_hash, node_hash, proof, root, verify

LEAVES = st.lists(st.binary(max_size=40), min_size=1, max_size=40)


def test_the_shape_is_that_of_rfc_6962() -> None:
    a, b, c = (leaf_hash(x) for x in (b"a", b"b", b"c"))
    assert root([b"a", b"b", b"c"]) == node_hash(node_hash(a, b), c)


@given(LEAVES)
def test_every_leaf_has_a_proof(leaves: list[bytes]) -> None:
    for index, leaf in enumerate(leaves):
        assert verify(root(leaves), leaf, index, len(leaves), proof(leaves, index))


@given(LEAVES, st.data())
def test_a_proof_serves_no_other_position_size_or_leaf(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = proof(leaves, index)
    assert not verify(root(leaves), leaves[index] + b"!", index, len(leaves), path)
    assert not verify(root(leaves), leaves[index], index, len(leaves), [*path, bytes(32)])
    other = data.draw(st.integers(0, len(leaves) - 1))
    if leaves[other] != leaves[index]:
        assert not verify(root(leaves), leaves[index], other, len(leaves), path)


def test_no_tree_without_leaves_and_no_proof_out_of_range() -> None:
    with pytest.raises(ValueError, match="at least one"):
        root([])
    with pytest.raises(IndexError):
        proof([b"a"], 1)
    assert not verify(leaf_hash(b"a"), b"a", 1, 1, [])
