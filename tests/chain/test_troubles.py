"""What endpoints say when they refuse."""

from typing import Any

import pytest
from scripts.compatibility import section

from proofyard.chain.troubles import Trouble, trouble


@pytest.mark.parametrize("row", section("rpc_messages").rows, ids=lambda row: f"{row['client']}: {row['message'][:40]}")
def test_each_clients_refusal_is_understood(row: dict[str, Any]) -> None:
    assert trouble(row) == Trouble[row["means"]]
    shouted = row | {"message": row["message"].upper()}
    assert trouble(shouted) == Trouble[row["means"]], "the case of a message says nothing"


@pytest.mark.parametrize(
    ("error", "means"),
    [
        ({"code": -32005, "message": "limit exceeded"}, Trouble.BUSY),
        ({"code": 429, "message": ""}, Trouble.BUSY),
        ({"code": -32009, "message": "no"}, Trouble.UNDERPAID),
        ({"code": 4444, "message": "gone"}, Trouble.PRUNED),
        ({"code": -32000, "message": "unknown transaction type"}, None),
        ({"code": 3, "message": "execution reverted: StakeTooLow", "data": "0x12345678"}, None),
        *(
            ({"code": code, "message": f"{said}{words}"}, None)
            for words in ("nonce too low", "insufficient balance", "rate limit", "already known", "header not found")
            for code, said in (
                (3, ""),
                (-32000, "execution reverted: "),
                (-32603, "Error: VM Exception: reverted with "),
            )
        ),
        ({"code": -32015, "message": "VM execution error. Reverted: already exists"}, None),
        ({"code": "3", "message": None}, None),
        ({}, None),
    ],
)
def test_a_code_tells_where_the_words_do_not(error: dict[str, Any], means: Trouble | None) -> None:
    assert trouble(error) == means
