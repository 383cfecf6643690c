"""Pushes to the Hub that say, when they fail, what the Hub holds now."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def told_push(repo_id: str, revision: str | None = None, token: Any = None) -> Iterator[None]:
    """Run a push; if it fails, say whether the Hub holds nothing, the revision from before, or the new one after all.

    Files reach the Hub in one commit at the end of a push, so a push that dies half-way publishes nothing. Only a
    connection that breaks while the answer is on its way leaves the pusher in doubt, and then the Hub is asked.

    Args:
        repo_id: "user/name", or "name" for the user whose token it is.
        revision: branch that is pushed to; "main" where None.
        token: as for ``push_to_hub``.

    Raises:
        OSError: the push failed for what is no bad argument; the message says what the Hub holds.

    Example:
        >>> with told_push("user/vub-bert-imdb"):  # doctest: +SKIP
        ...     api.upload_folder(repo_id="user/vub-bert-imdb", folder_path="vub-bert-imdb")
    """
    before = _newest(repo_id, revision, token)
    try:
        yield
    except (ValueError, TypeError):
        raise  # refused before anything was sent
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"the push to {repo_id} failed: {reason}; {_told(repo_id, revision, token, before)}") from error


def _told(repo_id: str, revision: str | None, token: Any, before: str | None) -> str:
    now = _newest(repo_id, revision, token)
    if _UNKNOWN in (before, now):
        return "what the Hub holds could not be asked"
    if now is None:
        return "nothing was published"
    if now == before:
        return f"the Hub holds the previous revision {now}, unchanged"
    return f"all the same the Hub has a new revision {now}: it arrived, or somebody else pushed"


_UNKNOWN = "unknown"


def _newest(repo_id: str, revision: str | None, token: Any) -> str | None:
    """The commit that a push would start from; None without a repository, and for one that holds nothing yet."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    api = HfApi(token=token)
    try:
        name = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        try:
            info = api.model_info(name, revision=revision, timeout=10)
        except RevisionNotFoundError:
            info = api.model_info(name, timeout=10)  # a new branch starts from main
    except RepositoryNotFoundError:
        return None
    except Exception:
        return _UNKNOWN  # whatever is wrong, the push itself is what has to say it
    files = {file.rfilename for file in info.siblings or ()}
    return info.sha if files - {".gitattributes"} else None
