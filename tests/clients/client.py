"""A client in Python, of requests or of the standard library: `client.py requests|stdlib ADDRESS`.

Prints what two users met, as one line of JSON: see tests/all/clients.rs.
"""

import http.client
import http.cookiejar
import json
import sys
import time
import urllib.error
import urllib.request

LARGE = b'"' + b"x" * (6 << 20) + b'"'
JSON = {"Content-Type": "application/json"}


def pieces():
    for at in range(0, len(LARGE), 1 << 16):
        yield LARGE[at : at + (1 << 16)]


class Requests:
    def __init__(self, address):
        import requests

        self.address, self.session = address, requests.Session()

    def ask(self, method, path, data=None):
        answer = self.session.request(method, self.address + path, data=data, headers=JSON)
        return answer.status_code, answer.text, answer.headers.get("carrel-error")

    def lines(self, path, data):
        with self.session.post(self.address + path, data=data, headers=JSON, stream=True) as answer:
            yield from answer.iter_lines(chunk_size=1, decode_unicode=True)


class Stdlib:
    def __init__(self, address):
        jar = http.cookiejar.CookieJar()
        self.address, self.opener = address, urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))

    def ask(self, method, path, data=None):
        try:
            with self.open(method, path, data) as answer:
                return answer.status, answer.read().decode(), answer.headers.get("carrel-error")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(), error.headers.get("carrel-error")

    def lines(self, path, data):
        with self.open("POST", path, data) as answer:
            yield from (line.decode().rstrip("\r\n") for line in answer)

    def open(self, method, path, data):
        data = data.encode() if isinstance(data, str) else data
        return self.opener.open(urllib.request.Request(self.address + path, data, JSON, method=method), timeout=60)


def note(user, action, text=""):
    _, body, _ = user.ask("POST", "/generate", json.dumps({"command": "note", "action": action, "param1": text}))
    return json.loads(body)["data"]["notes"]


def main(kind, address, stream):
    users = [{"requests": Requests, "stdlib": Stdlib}[kind](address) for _ in range(2)]
    for user in users:
        assert user.ask("POST", "/session")[0] == 200
    for text in ["milk", "bread"]:
        for number, user in enumerate(users):
            note(user, "add", f"{text} {number}")
    begun, events, times = time.monotonic(), [], []
    for line in users[0].lines("/hostile/stream", stream):
        if line.startswith("data: "):
            events.append(json.loads(line[len("data: ") :])["value"])
            times.append(int(1000 * (time.monotonic() - begun)))
    large = []
    for body in [LARGE, pieces()]:
        status, text, code = users[0].ask("POST", "/generate", body)
        large.append([status, code, json.loads(text)["code"]])
    notes = [note(user, "list") for user in users]
    ended = [users[0].ask("DELETE", "/session")[0], users[0].ask("POST", "/generate", '{"command":"stats"}')[0]]
    print(json.dumps({"notes": notes, "events": events, "times": times, "large": large, "ended": ended}))


main(*sys.argv[1:])
