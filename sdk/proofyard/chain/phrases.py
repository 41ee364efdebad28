"""Seed phrases (BIP-39) and the keys of their accounts (BIP-32, BIP-44), as MetaMask, ethers, cast and hardware wallets
make them.

A phrase is a secret: no error here shows a word of it.
"""

from unicodedata import combining, normalize

from proofyard.chain.errors import BadPhrase

PHRASE_WORDS = (12, 15, 18, 21, 24)
ACCOUNT_PATH = "m/44'/60'/0'/0/{account}"
"""MetaMask calls account 0 of a phrase its first."""
LAST_ACCOUNT = (1 << 31) - 1


def words_in(text: str) -> list[str]:
    """The words of a text in small letters, as far as it could be a seed phrase and nothing else; empty otherwise."""
    words = normalize("NFKD", text).strip().strip("\"'").lower().split()
    return words if len(words) in PHRASE_WORDS and all(map(_is_word, words)) else []


def key_of(text: str, account: int = 0) -> bytes:
    """The private key of an account of a seed phrase, in any of BIP-39's languages. Raises `BadPhrase`."""
    from eth_account.hdaccount import key_from_seed
    from eth_account.hdaccount.mnemonic import Mnemonic

    words = words_in(text)
    if not words:
        raise BadPhrase(f"it has {len(text.split())} words, and one has {', '.join(map(str, PHRASE_WORDS))}")
    lists = [Mnemonic(language) for language in Mnemonic.list_languages_enum()]
    if not any(each.is_mnemonic_valid(" ".join(words)) for each in lists):
        raise BadPhrase(_why(words, [set(each.wordlist) for each in lists]))
    path = ACCOUNT_PATH.format(account=account)
    return bytes(key_from_seed(Mnemonic.to_seed(" ".join(words)), path))


def _why(words: list[str], lists: list[set[str]]) -> str:
    """What is wrong with words that do not fit; the list that has most of them is the language that is meant."""
    missing = min(([at for at, word in enumerate(words, 1) if word not in known] for known in lists), key=len)
    if missing:
        return f"word {missing[0]} of {len(words)} is in none of BIP-39's lists"
    return "its words do not fit together (the checksum is wrong): one is another word, or two are swapped"


def _is_word(text: str) -> bool:
    return all(each.isalpha() or combining(each) for each in text)
