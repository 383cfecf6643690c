"""A Hub on this machine: an HTTP server that speaks what ``huggingface_hub`` says to huggingface.co, kept in memory.

```python
with LoopbackHub() as hub:
    hub.add("user/model", folder)
    subprocess.run(command, env={**os.environ, **hub.environment(home)})
    hub.files("user/model")["config.json"]
```

Repositories have commits and branches as on the Hub: small files travel inside a commit, weights go before it through
the LFS interface (or that of ``xet_store`` where ``xet`` is set) and are had back by a redirect to another host, which
must not be shown the token. Whatever else is asked for is a 404 that ``unknown`` remembers.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "0" * 34
USER = "user"
KINDS = {"model": "", "dataset": "datasets/"}
LARGE = (".safetensors", ".bin", ".parquet", ".pt")  # what the Hub's own .gitattributes sends to LFS


class Dropped(Exception):
    """The connection is to end without an answer."""


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status, message, code=None, commit=None):
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Message": message}
        if code:
            self.headers["X-Error-Code"] = code
        if commit:
            self.headers["X-Repo-Commit"] = commit


class Repository:
    """Commits, each with all its files, and the names that point to them."""

    def __init__(self):
        self.commits: dict[str, dict[str, bytes]] = {}
        self.messages: dict[str, str] = {}
        self.branches: dict[str, str] = {}
        # As on the Hub, a repository is never without a commit.
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")

    def commit(self, branch, changes, message, deleted=()):
        before = self.commits.get(self.branches.get(branch, ""), {})
        files = {path: content for path, content in before.items() if path not in deleted} | changes
        sha = hashlib.sha1(repr((message, len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[sha], self.messages[sha], self.branches[branch] = files, message, sha
        return sha

    def sha(self, revision):
        if revision in self.branches:
            return self.branches[revision]
        if revision in self.commits:
            return revision
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")


class LoopbackHub:
    """The server, in threads of this process; a context manager.

    Attributes:
        requests: every request as (method, path, whether it carried the token).
        unknown: requests for what this Hub has not.
        dies: what a commit message must contain for the connection to drop, "before" or "after" the commit is done.
        xet: whether large files may go through the other store, ``xet_store``; LFS is spoken always.
    """

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, bool]] = []
        self.unknown: list[str] = []
        self.dies: dict[str, str] = {}
        self.xet = False
        self.xorbs: dict[str, bytes] = {}
        self.xet_files: dict[str, list[tuple]] = {}
        self.xet_names: dict[str, str] = {}
        self.lock = threading.RLock()

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        port = self.server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        self.storage = f"http://localhost:{port}"  # to a client another host, as the Hub's storage is
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home):
        """What makes an interpreter use this Hub and nothing it may have cached."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # tests of that store turn it on
            "HF_XET_XORB_COMPRESSION_POLICY": "none",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def repository(self, name, kind="model"):
        if (kind, name) not in self.repositories:
            raise Refused(404, "Repository not found", "RepoNotFound")
        return self.repositories[kind, name]

    def add(self, name, folder, branch="main"):
        """Publish a folder as a model."""
        repository = self.repositories.setdefault(("model", name), Repository())
        files = {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
        return repository.commit(branch, files, "Add a folder")

    def files(self, name, revision="main"):
        """The files of a model at a revision."""
        repository = self.repository(name)
        return repository.commits[repository.sha(revision)]


class Interpreter:
    """A Python process that uses a Hub, and runs one piece of code after the other: the imports are paid for once."""

    _LOOP = """
import contextlib, io, json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    asked, out, error = json.loads(line), io.StringIO(), None
    os.chdir(asked["folder"])
    sys.argv = asked["argv"]
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(asked["code"], "<asked>", "exec"), {"__name__": "__main__"})
    except BaseException as stopped:
        if not isinstance(stopped, SystemExit) or stopped.code:
            error = traceback.format_exc()
    answers.write(json.dumps({"out": out.getvalue(), "error": error}) + "\\n")
    answers.flush()
"""

    def __init__(self, environment):
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def run(self, code, folder, argv=("python",)):
        """What a piece of code prints when it is run in a folder; AssertionError with its traceback where it fails."""
        asked = {"code": textwrap.dedent(code), "folder": str(folder), "argv": [str(word) for word in argv]}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the interpreter died"
        found = json.loads(answer)
        assert found["error"] is None, found["error"]
        return found["out"]

    def close(self):
        self.process.kill()
        self.process.communicate()


def route(method, pattern, token=False):
    """Answer requests of that method whose whole path matches; ``token`` says that it must be ours."""

    def decorate(function):
        ROUTES.append((method, re.compile(pattern), token, function))
        return function

    return decorate


ROUTES: list[tuple[str, re.Pattern, bool, Callable]] = []
REPOSITORY = r"/api/(?P<kind>model|dataset)s/(?P<name>[\w.-]+/[\w.-]+)"


@route("GET", "/api/whoami-v2", token=True)
def whoami(hub, request):
    return {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}


@route("POST", "/api/repos/create", token=True)
def create(hub, request):
    asked = request.json()
    name, kind = f"{asked.get('organization') or USER}/{asked['name']}", asked.get("type") or "model"
    answer = {"url": f"{hub.endpoint}/{KINDS[kind]}{name}", "name": name}
    if (kind, name) in hub.repositories:
        return request.answer(409, {**answer, "error": "You already created this repo"})
    hub.repositories[kind, name] = Repository()
    return answer


@route("POST", "/api/validate-yaml")
def validate_yaml(hub, request):
    errors = metadata_errors(request.json()["content"])
    return request.answer(400 if errors else 200, {"errors": [{"message": error} for error in errors], "warnings": []})


@route("GET", REPOSITORY + "(/revision/(?P<revision>[^/]+))?")
def info(hub, request, kind, name, revision="main"):
    repository = hub.repository(name, kind)
    sha = repository.sha(revision)
    siblings = [{"rfilename": path} for path in sorted(repository.commits[sha])]
    about = {"id": name, "modelId": name, "sha": sha, "private": False, "gated": False, "tags": [], "downloads": 0}
    return {**about, "siblings": siblings, "author": name.partition("/")[0]}


@route("GET", REPOSITORY + "/refs")
def refs(hub, request, kind, name):
    branches = hub.repository(name, kind).branches.items()
    listed = [{"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": sha} for branch, sha in branches]
    return {"branches": listed, "converts": [], "tags": []}


@route("GET", REPOSITORY + "/commits/(?P<revision>[^/]+)")
def commits(hub, request, kind, name, revision):
    repository = hub.repository(name, kind)
    newest = repository.sha(revision)
    about = {"authors": [], "date": "2026-01-01T00:00:00.000Z", "message": ""}
    return [{"id": newest, "title": repository.messages[newest], **about}]


@route("GET", REPOSITORY + "/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?")
def tree(hub, request, kind, name, revision, folder=""):
    repository = hub.repository(name, kind)
    sha = repository.sha(revision)
    inside = f"{folder}/" if folder else ""
    found = {path: content for path, content in repository.commits[sha].items() if path.startswith(inside)}
    if folder and not found:
        raise Refused(404, f"{folder} does not exist on {revision}", "EntryNotFound", sha)
    return [
        {"type": "file", "path": path, "size": len(content), "oid": blob_oid(content)}
        | ({"lfs": {"oid": sha256(content), "size": len(content), "pointerSize": 134}} if is_large(path) else {})
        for path, content in sorted(found.items())
        if request.query.get("recursive") in (["true"], ["True"], ["1"]) or "/" not in path.removeprefix(inside)
    ]


@route("POST", REPOSITORY + "/branch/(?P<branch>[^/]+)", token=True)
def branch(hub, request, kind, name, branch):
    repository = hub.repository(name, kind)
    if branch in repository.branches:
        return request.answer(409, {"error": "Reference already exists"})
    repository.branches[branch] = repository.sha(request.json().get("startingPoint") or "main")
    return {}


@route("POST", REPOSITORY + "/preupload/(?P<revision>[^/]+)", token=True)
def preupload(hub, request, kind, name, revision):
    repository = hub.repository(name, kind)
    present = repository.commits[repository.sha(revision)]
    files = []
    for file in request.json()["files"]:
        path = file["path"]
        known = present.get(path)
        oid = None if known is None else sha256(known) if is_large(path) else blob_oid(known)
        mode = "lfs" if is_large(path) else "regular"
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return {"files": files}


@route("POST", r"/(?P<name>[\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", token=True)
def lfs_batch(hub, request, name):
    hub.repository(name)
    objects = []
    for asked in request.json()["objects"]:
        entry = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in hub.objects:
            verify = {"href": f"{hub.endpoint}/{name}.git/info/lfs/objects/verify", "header": {}}
            entry["actions"] = {"upload": {"href": f"{hub.storage}/lfs/{asked['oid']}", "header": {}}, "verify": verify}
        objects.append(entry)
    offered = hub.xet and "xet" in request.json().get("transfers", [])
    return {"transfer": "xet" if offered else "basic", "objects": objects}


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_upload(hub, request, oid):
    content = request.body()
    if sha256(content) != oid:
        raise Refused(400, "the content is not that of its oid")
    hub.objects[oid] = content
    return {}


@route("POST", r"/(?P<name>[\w.-]+/[\w.-]+)\.git/info/lfs/objects/verify", token=True)
def lfs_verify(hub, request, name):
    asked = request.json()
    if len(hub.objects.get(asked["oid"], b"")) != asked["size"]:
        raise Refused(404, "no such object of that size")
    return {}


@route("POST", REPOSITORY + "/commit/(?P<revision>[^/]+)", token=True)
def commit(hub, request, kind, name, revision):
    repository = hub.repository(name, kind)
    changes, deleted, message = {}, [], ""
    for line in request.body().decode().splitlines():
        item = json.loads(line)
        value = item["value"]
        if item["key"] == "header":
            message = value["summary"]
        elif item["key"] == "file":
            changes[value["path"]] = base64.b64decode(value["content"])
        elif item["key"] == "lfsFile":
            if value["oid"] not in hub.objects:
                raise Refused(400, f"{value['path']} was not uploaded")
            changes[value["path"]] = hub.objects[value["oid"]]
        elif item["key"] == "deletedFile":
            deleted.append(value["path"])
        else:
            raise Refused(400, f"unknown operation {item['key']}")
    death = next((when for words, when in hub.dies.items() if words in message), None)
    if death == "before":
        raise Dropped
    repository.sha(revision)
    sha = repository.commit(revision, changes, message, deleted)
    if death == "after":
        raise Dropped
    return {"success": True, "commitOid": sha, "commitUrl": f"{hub.endpoint}/{KINDS[kind]}{name}/commit/{sha}"}


@route("GET", r"/(?P<place>datasets/)?(?P<name>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(hub, request, name, revision, path, place=""):
    repository = hub.repository(name, "dataset" if place else "model")
    sha = repository.sha(revision)
    content = repository.commits[sha].get(path)
    if content is None:
        raise Refused(404, "Entry not found", "EntryNotFound", sha)
    if not is_large(path):
        return request.answer(200, content, {"X-Repo-Commit": sha, "ETag": f'"{blob_oid(content)}"'})
    oid = sha256(content)
    hub.objects[oid] = content
    linked = {"X-Repo-Commit": sha, "X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content))}
    if hub.xet and oid in hub.xet_names:
        token = f"{hub.endpoint}/api/{'dataset' if place else 'model'}s/{name}/xet-read-token/{sha}"
        linked |= {"X-Xet-Hash": hub.xet_names[oid], "X-Xet-Refresh-Route": token}
    return request.answer(302, b"", {**linked, "Location": f"{hub.storage}/storage/{oid}"})


@route("GET", "/storage/(?P<oid>[0-9a-f]{64})")
def storage(hub, request, oid):
    return request.answer(200, hub.objects[oid], {"ETag": f'"{oid}"'})


class _Handler(BaseHTTPRequestHandler):
    """One connection: finds the route, checks the token, sends the answer."""

    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        url = urlsplit(self.path)
        self.query, self._body = parse_qs(url.query), self._read()
        method = "GET" if self.command == "HEAD" else self.command
        trusted = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path, "Authorization" in self.headers))
            try:
                for asked, pattern, needs_token, function in ROUTES:
                    match = pattern.fullmatch(url.path)
                    if asked == method and match:
                        if needs_token and not trusted:
                            raise Refused(401, "Invalid username or password.")
                        found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                        answer = function(self.hub, self, **found)
                        break
                else:
                    self.hub.unknown.append(f"{self.command} {self.path}")
                    raise Refused(404, "Not Found")
            except Dropped:
                self.close_connection = True
                return
            except Refused as refusal:
                answer = self.answer(refusal.status, {"error": str(refusal)}, refusal.headers)
        self._send(*(answer if isinstance(answer, tuple) else self.answer(200, answer)))

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def answer(self, status, content, headers=None):
        """Status, bytes and headers of an answer."""
        if isinstance(content, bytes):
            return status, content, {"Content-Type": "application/octet-stream", **(headers or {})}
        return status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})}

    def body(self):
        return self._body

    def json(self):
        return json.loads(self._body)

    def _read(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, status, content, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        """Tests do not print."""


def metadata_errors(content):
    """What the Hub refuses in the YAML header of a card: fields of a wrong kind, and results that lack a part."""
    import yaml

    match = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    if not match:
        return []
    try:
        data = yaml.safe_load(match.group(1)) or {}
    except yaml.YAMLError as error:
        return [f"the header is not YAML: {error}"]
    if not isinstance(data, dict):
        return ["the header must hold fields"]
    identifier = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
    errors = []
    for field in ("tags", "datasets", "metrics", "base_model", "language"):
        values = data.get(field, [])
        values = [values] if isinstance(values, str) else values
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            errors.append(f'"{field}" must be a list of strings')
        elif field in ("datasets", "base_model"):
            errors += [f'"{field}" holds {value!r}' for value in values if not identifier.fullmatch(value)]
    for field in ("license", "library_name", "pipeline_tag"):
        if not isinstance(data.get(field, ""), str):
            errors.append(f'"{field}" must be a string')
    for model in data.get("model-index") or []:
        if not isinstance(model.get("name"), str) or not model.get("results"):
            errors.append('"model-index" needs a name and results')
        for result in model.get("results") or []:
            for part, keys in (("task", ["type"]), ("dataset", ["type", "name"])):
                errors += [
                    f'"model-index[0].results.{part}.{key}" is required'
                    for key in keys
                    if not isinstance((result.get(part) or {}).get(key), str)
                ]
            metrics = result.get("metrics") or [{}]
            if not all(isinstance(metric.get("type"), str) and metric.get("value") is not None for metric in metrics):
                errors.append('"model-index[0].results.metrics" need type and value')
    return errors


def is_large(path):
    return path.endswith(LARGE)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def blob_oid(content):
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
