"""A machine that gets another address in mid-transfer goes on with what it was at."""

import time

SIZE, BYTES_S = 2_000_000, 1_000_000


def test_a_transfer_goes_on_when_an_end_of_a_punched_path_moves(internet, home_networks):
    with home_networks.Peers() as programs:
        relay = programs.start(internet.public())
        first, second, third, fourth = (programs.start(internet.home("port-restricted")) for _ in range(4))
        relay.tell("relay")
        transfers = {first: (first, second), fourth: (third, fourth)}
        for provider, fetcher in transfers.values():
            provider.tell("reserve", route=relay.route("relayed"))
            fetcher.tell("reach", wallet=provider.wallet, routes=[relay.route("relayed")])
        for provider, fetcher in transfers.values():
            assert fetcher.tell("wait", wallet=provider.wallet, seconds=10)["way"] == "punched"
            provider.tell("limit", bytes_s=BYTES_S)
            fetcher.begin("get", cid=provider.tell("put", size=SIZE)["cid"], wallets=[provider.wallet])
        time.sleep(SIZE / BYTES_S / 3)
        for moves in transfers:
            internet.move(moves.host)
        for provider, fetcher in transfers.values():
            assert fetcher.answer()["bytes"] == SIZE
            assert SIZE <= provider.tell("served")["bytes"] < SIZE * 1.01, "no block goes twice"
            assert not fetcher.tell("way", wallet=provider.wallet)["lost"]
