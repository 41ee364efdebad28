"""Results on a hub: a folder becomes a model repository there, by huggingface_hub and the login that it has itself."""

import re
from pathlib import Path

from proofyard.sdk.errors import JobRefused, NotPushed

_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def require_repository(repository: str) -> str:
    """Raise `JobRefused` for what is no repository's name, or where huggingface_hub is not installed."""
    if not _REPOSITORY.fullmatch(repository):
        raise JobRefused(f"push_to: {repository[:100]!r} is no repository; give one as owner/name")
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise JobRefused("push_to: `pip install huggingface_hub` to send results to a hub") from None
    return repository


def push_folder(folder: Path, repository: str, *, private: bool = True) -> str:
    """Send a folder to the model repository `owner/name`, made private where it is new, and return its address.

    The token is that of `hf auth login` or HF_TOKEN, the hub that of HF_ENDPOINT. Raises `NotPushed` with what the hub
    says; the folder stays as it is.
    """
    require_repository(repository)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True, repo_type="model")
        api.upload_folder(repo_id=repository, folder_path=folder, repo_type="model", commit_message="Add a result")
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        why = "log in with `hf auth login`, or set HF_TOKEN to a token that may write" if status in (401, 403) else ""
        raise NotPushed(repository, str(error).splitlines()[0], why or "try again") from None
    except Exception as error:  # of whichever HTTP library this release uses
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise NotPushed(repository, reason, "look at HF_ENDPOINT and the network, and try again") from None
    return f"{api.endpoint}/{repository}"
