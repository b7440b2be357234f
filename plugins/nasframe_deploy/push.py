"""Pushes written models to the Hugging Face hub, with the user's own login."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nasframe.errors import RunError, UsageError

LOGIN = "hf auth login"
"""The command of huggingface_hub that logs a user in."""


def repositories(repo: str, folders: Sequence[str]) -> list[str]:
    """Return the repository of each model: ``repo`` itself for a single one, else one for each.

    Args:
        repo: as ``me/my-model``.
        folders: the names of the models' folders.

    >>> repositories("me/small", ["best-50"]), repositories("me/small", ["best-50", "best-30"])
    (['me/small'], ['me/small-best-50', 'me/small-best-30'])
    """
    if len(folders) == 1:
        return [repo]
    return [f"{repo}-{folder}" for folder in folders]


def refuse_unpushable(repo: str) -> None:
    """Make sure that a push can be tried, before any work.

    Raises:
        UsageError: the name is none that the hub takes, nobody is logged in, or the hub is switched off.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"--push: {error} Expected a repository such as 'me/my-model'.") from None
    if constants.HF_HUB_OFFLINE:
        raise UsageError("--push: HF_HUB_OFFLINE is set, so the hub is not asked. Expected it unset.")
    if get_token() is None:
        raise UsageError(f"--push: nobody is logged in to the hub. Expected a login: {LOGIN}, or HF_TOKEN.")


def push(directory: Path, repo: str, public: bool = False) -> str:
    """Upload a written model as one commit, and return the address of its repository.

    Args:
        directory: the model's.
        repo: the repository, which is made if it does not exist.
        public: whether everybody can see a repository that is made now; one that exists stays as it is.

    Raises:
        RunError: the hub refused it, or could not be reached; the model stays where it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        url = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=directory, commit_message="Upload model")
    except (HfHubHTTPError, OSError) as error:
        advice = f"The model lies in {directory}; try again, or push it by hand."
        raise RunError(f"{repo}: not pushed: {error}\n{advice}") from error
    return str(url)
