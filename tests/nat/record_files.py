"""Records what NAT makes of configuration files: `files.jsonl` beside this script.

    python3 -m venv nat && nat/bin/pip install nvidia-nat-core==1.9.0
    nat/bin/python tests/nat/record_files.py > tests/nat/files.jsonl

Each line is a case: its files (the first is the configuration), variables and overrides, and either what NAT reads in
them (`taken`) or that it does not take them (`refused`). Whoever adds a case adds it here and records them all anew.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from nat.cli.cli_utils.config_override import load_and_override_config
from nat.cli.register_workflow import register_function
from nat.data_models.config import Config
from nat.data_models.function import FunctionBaseConfig
from nat.runtime.loader import PluginTypes, discover_and_register_plugins
from nat.utils.data_models.schema_validator import validate_schema
from nat.utils.io.yaml_tools import yaml_load


class NotepadConfig(FunctionBaseConfig, name="per_user_notepad"):
    max_notes: int = 100


class PreferencesConfig(FunctionBaseConfig, name="per_user_preferences"):
    default_preferences: dict[str, str] = {"theme": "light", "language": "en"}


class AssistantConfig(FunctionBaseConfig, name="per_user_assistant"):
    notepad_name: str = "notepad"
    preferences_name: str = "preferences"


for config_type in (NotepadConfig, PreferencesConfig, AssistantConfig):

    @register_function(config_type=config_type)
    async def build(config, builder):
        yield None


# What every case has, so that it is a whole configuration.
REST = "functions: {notepad: {_type: per_user_notepad}, preferences: {_type: per_user_preferences}}\n"
WORKFLOW = "workflow: {_type: per_user_assistant}\n"
WHOLE = REST + WORKFLOW

CASES = []


def case(name, text, files=None, env=None, override=None):
    CASES.append({"name": name, "files": {"config.yml": text, **(files or {})}, "env": env or {},
                  "override": override or []})


def timeout(name, value, env=None):
    case(f"time: {name}", f"general: {{per_user_workflow_timeout: {value}}}\n{WHOLE}", env=env)


for value in ["'01:30'", "01:30", "1:30", "'1:30'", "1:30:00", "'1:30:00'", "'00:30:00'", "00:30:00", "'100:00'",
              "'01:30:00.5'", "'-01:30'", "'+01:30'", "'01:60'", "1:60", "'3 days, 01:30'", "'1 day 2:03:04'",
              "'30d'", "30d", "'5 days'", "PT30M", "PT1H30M", "P1D", "P1DT2H", "P2W3D", "P1Y", "P1M", "PT0.5S",
              "P0.5D", "'PT1,5S'", "-PT30M", "+PT30M", "pt30m", "PT", "PT30", "1800", "0.5", "1_800", "0x708", "03410",
              "0b11", "+30", "-5", "0", "1.8e+3", "1e3", ".5", ".inf", ".nan", "'1800'", "''", "~", "30m", "'1h 30m'",
              "yes", "[1]", "{a: 1}", "1.0e+30", "'10:00:00.1234567'", "'12:34:56.'", "'999999999 days'", "1:30.5"]:
    timeout(value, value)

for value in ["true", "True", "TRUE", "yes", "Yes", "on", "ON", "y", "off", "no", "n", "false", "'true'", "'yes'",
              "'1'", "'0'", "1", "0", "2", "1.0", "'t'", "\"Off\"", "' true'", "''", "maybe", "tRue", "[true]"]:
    case(f"boolean: {value}", f"general: {{enable_per_user_monitoring: {value}}}\n{WHOLE}")

for value in ["50", "'50'", "' 50 '", "50.0", "'50.0'", "1.7", "'1.7'", "5_0", "'5_0'", "0x1F", "'0x1F'", "010", "'010'",
              "0o17", "1e3", "1:30", "true", "'+5'", "'5.'", "'1__0'", "''", "[5]", "many"]:
    case(f"count: {value}", f"functions: {{notepad: {{_type: per_user_notepad, max_notes: {value}}}, preferences: "
         f"{{_type: per_user_preferences}}}}\n{WORKFLOW}")
for value in ["9000", "'9000'", "9000.0", "9000.5", "70000", "-1", "0x2328", "2:30:00"]:
    case(f"port: {value}", f"general: {{front_end: {{_type: fastapi, port: {value}}}}}\n{WHOLE}")
for value in ["2", "'2'", "0", "1.5"]:
    case(f"workers: {value}", f"general: {{front_end: {{_type: fastapi, workers: {value}}}}}\n{WHOLE}")

for value in ["dark", "'yes'", "yes", "5", "'5'", "1e10", "0o17", "~", "2001-01-01", "1.10", "tRue", "on"]:
    case(f"text: {value}", f"functions: {{notepad: {{_type: per_user_notepad}}, preferences: {{_type: "
         f"per_user_preferences, default_preferences: {{theme: {value}}}}}}}\n{WORKFLOW}")

# Variables.
PORT = "general: {front_end: {_type: fastapi, port: %s}}\n" + WHOLE
THEME = ("functions:\n  notepad: {_type: per_user_notepad}\n  preferences:\n    _type: per_user_preferences\n"
         "    default_preferences:\n      theme: %s\n" + WORKFLOW)
ENV = {"PORT": "9000", "EMPTY": "", "WORD": "plum", "NAME": "WORD", "OTHER": "${WORD}", "YES": "yes"}
for form in ["${PORT}", "'${PORT}'", "\"${PORT}\"", "${NOPE:-9001}", "${NOPE-9001}", "${EMPTY:-9001}", "${EMPTY-9001}",
             "${NOPE:-${PORT:-1}}", "${A:-${B:-9002}}", "${NOPE:=9003}", "${PORT:+9004}", "${PORT:?message}",
             "${NOPE:?message}", "${PORT:0:2}", "${#PORT}", "${NOPE:-$PORT}", "${NOPE}", "${PORT", "${}", "${PORT:}",
             "\\${PORT}"]:
    case(f"variable: {form}", PORT.replace("%s", form), env=ENV)
for form in ["${WORD}", "${NOPE:-a: b}", "'${NOPE:-a: b}'", "${WORD:1:2}", "${WORD: -2}", "${!NAME}", "${OTHER}",
             "'${NOPE:-{x}}'", "${WORD}-${WORD}", "'a # ${WORD}'", "\"a # ${WORD}\"", "a#${WORD}", "'$WORD'",
             "'\\\\\\${WORD}'", "'${NOPE:-\\$WORD}'", "x${EMPTY}", "${YES}", "'${YES}'", "${NOPE:-}x"]:
    case(f"variable in text: {form}", THEME.replace("%s", form), env=ENV)
for form in ["x # ${WORD}", "it's # ${WORD}", "x # it's ${WORD:-y}"]:
    case(f"variable in a comment: {form}", THEME.replace("%s", form), env=ENV)

# One file on another.
case("base: one", "base: base.yml\ngeneral: {per_user_workflow_timeout: 60}\n",
     {"base.yml": "general: {per_user_workflow_timeout: 30, enable_per_user_monitoring: true}\n" + WHOLE})
case("base: three", "base: b/b.yml\nfunctions: {notepad: {max_notes: 7}}\n",
     {"b/b.yml": "base: ../c.yml\ngeneral: {enable_per_user_monitoring: yes}\n",
      "c.yml": "general: {per_user_workflow_timeout: '01:00'}\n" + WHOLE})
case("base: lists are replaced",
     "base: b.yml\ngeneral: {front_end: {endpoints: [{path: /b, method: POST, description: b, function_name: notepad}]}}\n",
     {"b.yml": "general: {front_end: {_type: fastapi, endpoints: [{path: /a, method: POST, description: a, "
               "function_name: notepad}]}}\n" + WHOLE})
case("base: a circle", "base: b.yml\n" + WHOLE, {"b.yml": "base: config.yml\n"})
case("base: itself", "base: config.yml\n" + WHOLE)
case("base: not there", "base: nope.yml\n" + WHOLE)
case("base: a number", "base: 5\n" + WHOLE)
case("base: nothing", "base:\n" + WHOLE)
case("base: a variable", "base: ${NOPE:-b}.yml\n", {"b.yml": WHOLE})
case("base: wrong beneath", "base: b.yml\n" + WHOLE, {"b.yml": "general: {per_user_workflow_timeout: soon}\n"})
case("base: mended on top", "base: b.yml\ngeneral: {per_user_workflow_timeout: 60}\n" + WHOLE,
     {"b.yml": "general: {per_user_workflow_timeout: soon}\n"})
case("base: a list", "base: b.yml\n" + WHOLE, {"b.yml": "[1, 2]\n"})

# Texts in files.
PROMPT = THEME.replace("%s", "%s")
case("file: a text", THEME.replace("%s", "file://theme.txt"), {"theme.txt": "dark\r\nblue"})
case("file: of another ending", THEME.replace("%s", "file://theme.py"), {"theme.py": "dark"})
case("file: not there", THEME.replace("%s", "file://nope.txt"))
case("file: in a base", "base: b/b.yml\n", {"b/b.yml": THEME.replace("%s", "file://t.md"), "b/t.md": "blue"})

# YAML.
MERGE = ("x: &x {_type: per_user_notepad, max_notes: 3}\n")
case("merge key", "general: &g {per_user_workflow_timeout: 60}\nfunctions:\n  a: &x {_type: per_user_notepad, max_notes: 3}\n"
     "  notepad: {<<: *x, max_notes: 4}\n  b: {<<: *x}\n  preferences: {_type: per_user_preferences}\n" + WORKFLOW)
case("merge key: a list", "functions:\n  a: &x {_type: per_user_notepad, max_notes: 3}\n  c: &y {_type: "
     "per_user_notepad, max_notes: 9}\n  notepad: {<<: [*x, *y]}\n  preferences: {_type: per_user_preferences}\n" + WORKFLOW)
case("merge key: of a number", "functions:\n  notepad: {<<: 5, _type: per_user_notepad}\n  preferences: {_type: "
     "per_user_preferences}\n" + WORKFLOW)
case("merge key: at the top", "<<: {general: {per_user_workflow_timeout: 60}}\n" + WHOLE)
case("byte order mark", "\ufeffgeneral: {per_user_workflow_timeout: 60}\n" + WHOLE)
case("byte order mark: in a base", "base: b.yml\n", {"b.yml": "\ufeff" + WHOLE})
case("byte order mark: before a comment", "\ufeff# a comment\n" + WHOLE)
case("lines of Windows", ("general:\n  per_user_workflow_timeout: 60\n" + WHOLE).replace("\n", "\r\n"))
case("lines of old machines", ("general:\n  per_user_workflow_timeout: 60\n" + WHOLE).replace("\n", "\r"))
case("a control character", "general: {per_user_workflow_timeout: 60} # \x07\n" + WHOLE)
case("a null key", "general: {~: 5}\n" + WHOLE)
case("a null key of a function", "functions: {~: {_type: per_user_notepad}}\n" + WORKFLOW)
case("a document's start and end", "%YAML 1.1\n---\n" + WHOLE + "...\n")
case("two documents", WHOLE + "---\ngeneral: {}\n")
case("a list", "[1, 2]\n")
case("a tag of its own", "general: {per_user_workflow_timeout: !secret 5}\n" + WHOLE)
case("a tag of YAML", "general: {per_user_workflow_timeout: !!int '60'}\n" + WHOLE)
case("a text by tag", THEME.replace("%s", "!!str 5"))
case("a key twice", "general: {per_user_workflow_timeout: 60}\ngeneral: {per_user_workflow_timeout: 70}\n" + WHOLE)
case("JSON", json.dumps({"general": {"per_user_workflow_timeout": 60},
                         "functions": {"notepad": {"_type": "per_user_notepad"},
                                       "preferences": {"_type": "per_user_preferences"}},
                         "workflow": {"_type": "per_user_assistant"}}))
case("an unknown key", "general: {per_user_workflow_timeot: 60}\n" + WHOLE)
case("a tab", "general:\n\tper_user_workflow_timeout: 60\n" + WHOLE)

# Routes.
FRONT = "general:\n  front_end:\n    _type: fastapi\n%s" + WHOLE
for name, keys in [
    ("legacy routes off", "    disable_legacy_routes: true\n"),
    ("legacy routes off, as text", "    disable_legacy_routes: 'yes'\n"),
    ("NAT's own paths", "    workflow: {method: POST, description: x, path: /v1/workflow, websocket_path: /websocket, "
     "openai_api_path: /v1/chat, openai_api_v1_path: /v1/chat/completions, legacy_path: /generate, "
     "legacy_openai_api_path: /chat}\n"),
    ("a legacy path", "    workflow: {method: POST, description: x, path: /ask, legacy_path: /old}\n"),
    ("a legacy path, off", "    disable_legacy_routes: true\n    workflow: {method: POST, description: x, path: /ask, "
     "legacy_path: /old}\n"),
    ("a legacy path of an endpoint", "    endpoints: [{method: POST, description: x, path: /n, legacy_path: /n2, "
     "function_name: notepad}]\n"),
    ("only a legacy path of an endpoint", "    endpoints: [{method: POST, description: x, legacy_path: /n2, "
     "function_name: notepad}]\n"),
    ("a method in small letters", "    workflow: {method: post, description: x, path: /ask}\n"),
    ("interactive extensions", "    enable_interactive_extensions: true\n"),
    ("identity header", "    identity_header: X-Remote-User\n"),
    ("identity header: no name", "    identity_header: 'x y'\n"),
    ("identity header: empty", "    identity_header: ''\n"),
    ("identity header: with spaces", "    identity_header: ' X-User '\n"),
    ("identity header: and credentials", "    identity_header: X-User\n    accepted_identity_credentials: [jwt]\n"),
    ("credentials", "    accepted_identity_credentials: [jwt, api_key, basic, session_cookie]\n"),
    ("credentials: none", "    accepted_identity_credentials: []\n"),
    ("credentials: unknown", "    accepted_identity_credentials: [passport]\n"),
    ("root path", "    root_path: /api\n"),
    ("an unknown key", "    hots: localhost\n"),
]:
    case(f"front end: {name}", FRONT.replace("%s", keys))

# What is said on the command line.
for name, override in [
    ("a number", [["general.front_end.port", "9000"]]),
    ("a boolean", [["general.enable_per_user_monitoring", "true"]]),
    ("a time", [["general.per_user_workflow_timeout", "01:30"]]),
    ("a function's", [["functions.notepad.max_notes", "7"]]),
    ("two", [["general.front_end.port", "9000"], ["general.front_end.host", "0.0.0.0"]]),
    ("of no map", [["general.front_end.port.x", "5"]]),
    ("a wrong value", [["general.front_end.port", "many"]]),
    ("an unknown key", [["general.front_end.prot", "5"]]),
    ("a new section", [["general.front_end.cors.max_age", "5"]]),
    ("a list", [["general.front_end.cors.allow_origins", "https://a.example, https://b.example"]]),
]:
    case(f"override: {name}", "general: {enable_per_user_monitoring: false, front_end: {_type: fastapi, port: 8000, "
         "cors: {allow_origins: [https://x.example]}}}\n" + WHOLE, override=override)


def seen(config):
    """What Carrel has as well."""
    front_end = config.general.front_end
    routes = []
    for endpoint, function in [(front_end.workflow, "workflow"), *((it, it.function_name) for it in front_end.endpoints)]:
        routes.append([endpoint.method, endpoint.path, function])
        if not front_end.disable_legacy_routes:
            routes.append([endpoint.method, endpoint.legacy_path, function])
    return {
        "timeout": config.general.per_user_workflow_timeout.total_seconds(),
        "interval": config.general.per_user_workflow_cleanup_interval.total_seconds(),
        "monitoring": config.general.enable_per_user_monitoring,
        "host": front_end.host,
        "port": front_end.port,
        "root_path": front_end.root_path,
        "workers": front_end.workers,
        "identity_header": front_end.identity_header,
        "accepted": front_end.accepted_identity_credentials,
        "routes": [route for route in routes if route[1] is not None],
        "origins": front_end.cors.allow_origins or [],
        "max_age": front_end.cors.max_age,
        "functions": {name: own(function) for name, function in config.functions.items()},
    }


def own(function):
    keys = function.model_dump()
    return {key: keys[key] for key in ("max_notes", "default_preferences") if key in keys}


def record(it, folder):
    for name, text in it["files"].items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        # As it is: text mode would change the ends of lines.
        file.write_bytes(text.encode())
    for name in ("PORT", "EMPTY", "WORD", "NAME", "OTHER", "YES", "NOPE", "A", "B"):
        os.environ.pop(name, None)
    os.environ.update(it["env"])
    try:
        if it["override"]:
            loaded = load_and_override_config(folder / "config.yml", tuple(map(tuple, it["override"])))
        else:
            loaded = yaml_load(folder / "config.yml")
        return {"taken": seen(validate_schema(loaded, Config))}
    except Exception as error:
        return {"refused": type(error).__name__}


discover_and_register_plugins(PluginTypes.CONFIG_OBJECT)
for it in CASES:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({**it, **record(it, Path(folder))}))
    sys.stdout.flush()
