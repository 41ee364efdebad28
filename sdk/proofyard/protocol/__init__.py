"""The rules, pure: types, codecs, Merkle trees, commitments, audit plans, payouts."""
