"""What is hidden in texts that reach a record or the terminal."""

from __future__ import annotations

import pytest

from mnistbench.cli import app as cli
from mnistbench.errors.redaction import redact, without_credentials
from mnistbench.run.processes import TAIL_BYTES, _text_of_tail

SECRETS = r"""
http://user:Hunter2@@host
http://user:p@Hunter2@host:5000/x
http://user:p/Hunter2@host and more
http://user:two Hunter2@host
http://user:a'Hunter2@host
http://bob@corp.example:Hunter2@host
https://Hunter2@github.com/x
http:/user:Hunter2@host
user:Hunter2@host:5000
redis://:Hunter2@host
{"token": "Hunter2", "lr": 1}
{"token": "a \" Hunter2"}
{'password': 'a Hunter2', 'lr': 1}
RuntimeError: answer was "{\"api_key\": \"a Hunter2\"}"
{b'password': b'Hunter2'}
{"clientSecret":"Hunter2"}
{"credentials": ["ann", "Hunter2"]}
Authorization: Bearer Hunter2
authorization: Digest username="ann", response=Hunter2
{'Authorization': 'Basic Hunter2'}
curl -H "Authorization: token Hunter2" http://host/x
curl -H 'X-Api-Key: Hunter2'
curl -u ann:Hunter2 http://host
sent Bearer Hunter2
Cookie: a=b; sid=Hunter2
Set-Cookie: sid=Hunter2; Path=/
PASSWORD="two Hunter2"
PASSWORD='two Hunter2
export DB_PASS=Hunter2
password=a,Hunter2
password=a&Hunter2
host=h user=u password=Hunter2 dbname=x
Server=h;Uid=u;Pwd=Hunter2;
login(user="ann", auth=("ann", "Hunter2"))
os.environ['API_TOKEN'] = 'Hunter2'
token => Hunter2
password 'Hunter2' is wrong
wandb login --api-key Hunter2
prog --password Hunter2 --lr 1
['prog', '--password', 'Hunter2']
--db-password=Hunter2
machine host login ann password Hunter2
  password Hunter2
aws_secret_access_key = Hunter2/K7MDENG/bPxRfiCY
AccountName=x;AccountKey=Hunter2==;EndpointSuffix=y
https://bucket.example/k?X-Amz-Signature=Hunter2&X-Amz-Date=1
https://blob.example/k?sv=1&sig=Hunter2
Max retries exceeded with url: /api?key=Hunter2 (Caused by Timeout)
https://host/callback#access_token=Hunter2
sqlite:///x.db?password=Hunter2
used ghp_Hunter2Hunter2Hunter2Hunter2 to clone
used AKIAHUNTER2HUNTER2AA to read
eyJhbGciOiJIUzI1NiJ9.Hunter2.Hunter2
file:///home/Hunter2/data/x
file:///mnt/nas/Hunter2/data/x
sqlite:////mnt/Hunter2/x.db
PATH=/usr/bin:/home/Hunter2/bin
-I/home/Hunter2/include
[Errno 2] No such file or directory: '/home/Hunter2 Smith/data/x'
C:\Users\Hunter2\work\x.py
FileNotFoundError: 'C:\\Users\\Hunter2 Smith\\x.csv'
C:/Users/Hunter2/x.csv
\\server\share\Hunter2\x.csv
/home//Hunter2/x
""".strip("\n").splitlines()

PLAIN = r"""
https://docs.example:8080/a/b.html#c
http://127.0.0.1:5000 refused the request of bob@example.com
https://medium.example/@user/x
password authentication failed for user "bob"
forward pass: shapes do not match
the tokenizer: bpe
author: Ann
return x[:, 0]@w
a/b of 60,000 at 3.5/s, 1/2
my_package.py:12: error: 3
{"lr": 0.1, "momentum": 0.9}
Basic training failed
""".strip("\n").splitlines()


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_and_names_in_paths_are_hidden(text: str) -> None:
    hidden = redact(text)
    assert "hunter2" not in hidden.lower()
    assert redact(hidden) == hidden


@pytest.mark.parametrize("text", PLAIN)
def test_what_holds_no_secret_is_left_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_a_private_key_is_hidden() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\nHunter2\nHunter2\n-----END RSA PRIVATE KEY-----"
    assert "Hunter2" not in redact(key)


def test_what_surrounds_a_secret_stays() -> None:
    assert redact('{"token": "abc", "lr": 1}') == '{"token": "***", "lr": 1}'
    assert redact("f(token=abc, x=1)") == "f(token=***, x=1)"
    assert redact("could not reach http://u:p@ss@host:5000/x: no") == "could not reach http://***@host:5000/x: no"
    assert redact("http://host/x?a=b&c=d next") == "http://host/x?*** next"


def test_values_of_variables_that_name_a_secret_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "correct horse")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert without_credentials("sent correct horse, false") == "sent ***, false"


def test_the_end_of_a_long_output_begins_with_a_whole_line() -> None:
    cut = b"word@host\n" + b"x" * TAIL_BYTES
    assert _text_of_tail(bytearray(cut[:TAIL_BYTES])).startswith("xxx")
    assert _text_of_tail(bytearray(b"short")) == "short"


@pytest.mark.parametrize(
    "uri",
    [
        "user:Hunter2@host:5000",
        "http:/user:Hunter2@host",
        "http://user:Hunter2/x@host",
        "http://user:two Hunter2@host",
        "sqlite:///x.db?password=Hunter2",
        "ftp:user:Hunter2@host",
    ],
)
def test_the_terminal_shows_no_secret_of_an_address_it_refuses(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sync", ".", "--tracking-uri", uri]) == 2
    assert "hunter2" not in "".join(capsys.readouterr()).lower()
