"""Pushes to the Hub that report, when they fail, what the Hub holds now."""

from collections.abc import Iterator
from contextlib import contextmanager

Token = str | bool | None
_UNKNOWN = "unknown"


@contextmanager
def report_failed_push(repo_id: str, revision: str | None = None, token: Token = None) -> Iterator[None]:
    """Run a push; if it fails, report whether the Hub holds nothing, the previous revision, or the new one after all.

    Files reach the Hub in one commit at the end of a push, so a push that dies half-way publishes nothing. Only a
    connection that breaks before the answer arrives leaves that open, and then the Hub is asked.

    The arguments are those of ``push_to_hub``.

    Raises:
        OSError: the push failed, and not for a bad argument; the message says what the Hub holds.

    Example:
        >>> with report_failed_push("user/vub-bert-imdb"):  # doctest: +SKIP
        ...     api.upload_folder(repo_id="user/vub-bert-imdb", folder_path="vub-bert-imdb")
    """
    before = _newest(repo_id, revision, token)
    try:
        yield
    except (ValueError, TypeError):
        raise  # refused before anything was sent
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"the push to {repo_id} failed: {reason}; {_state(repo_id, revision, token, before)}") from error


def _state(repo_id: str, revision: str | None, token: Token, before: str | None) -> str:
    """Return what the Hub holds after a failed push, as the end of a sentence."""
    now = _newest(repo_id, revision, token)
    if _UNKNOWN in (before, now):
        return "the Hub does not answer what it holds"
    if now is None:
        return "nothing was published"
    if now == before:
        return f"the Hub holds the previous revision {now}, unchanged"
    return f"all the same the Hub has a new revision {now}: the push arrived, or somebody else pushed"


def _newest(repo_id: str, revision: str | None, token: Token) -> str | None:
    """Return the commit that a push would start from; None without a repository, and for an empty one."""
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
        return _UNKNOWN  # the push itself says what is wrong
    files = {file.rfilename for file in info.siblings or ()}
    return info.sha if files - {".gitattributes"} else None
