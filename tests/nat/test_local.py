"""Peers of one local network find each other by mDNS; nobody outside of it hears of them."""

import pytest

pytest.importorskip("zeroconf")


def test_peers_of_one_home_find_each_other_and_nobody_else_does(home_networks):
    with home_networks.Internet() as net, home_networks.Peers() as programs:
        home = net.home("port-restricted")
        places = (home, net.second(home), net.home("port-restricted"), net.public())
        one, other, elsewhere, public = map(programs.start, places)
        for peer in (elsewhere, public):
            peer.begin("at_home")
        one.begin("at_home", seconds=60)
        assert other.tell("at_home", seconds=60)["peers"] == {one.wallet: "lan"}
        assert one.answer()["peers"] == {other.wallet: "lan"}
        for peer in (elsewhere, public):
            peer.answer()
            peer.begin("at_home", seconds=1)
        assert [peer.answer()["peers"] for peer in (elsewhere, public)] == [{}, {}]
