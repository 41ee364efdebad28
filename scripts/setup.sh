#!/usr/bin/env bash
# Makes .venv and node_modules what the committed pins say. Idempotent: a second run costs about a second.
# Environment: PYTHON (interpreter, default python3), PROOFYARD_TORCH_INDEX (an extra package index with torch builds).
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null || die "no $python found. Install Python 3.11 or newer (apt install python3 python3-venv)."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "$("$python" --version) is too old; Python 3.11 or newer is needed. Point PYTHON at one."

stamp_of() { cat "$@" | sha256sum | cut -d' ' -f1; }

want=$(stamp_of pyproject.toml constraints.txt scripts/setup.sh)
if [ "$(cat .venv/.stamp 2>/dev/null)" != "$want" ]; then
  [ -x .venv/bin/python ] || "$python" -m venv .venv ||
    die "could not make a virtual environment. On Debian and Ubuntu: apt install python3-venv"
  pip=(.venv/bin/python -m pip --disable-pip-version-check -qq)
  torch=$(grep '^torch==' constraints.txt)
  torch_args=("$torch")
  [ -z "${PROOFYARD_TORCH_INDEX:-}" ] || torch_args+=(--extra-index-url "$PROOFYARD_TORCH_INDEX")
  if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
    say "looking up $torch ..."
    plan=$(mktemp)
    trap 'rm -f "$plan"' EXIT
    "${pip[@]}" install --dry-run --report "$plan" "${torch_args[@]}" -c constraints.txt >/dev/null 2>&1 ||
      say "pip could not plan $torch; the install below will say why"
    if grep -q '"name": "nvidia-' "$plan"; then
      say "your package index offers $torch as a CUDA build: about 3 GB will be downloaded, 6 GB on disk."
      say "It is needed to train and audit models. For a CPU build (200 MB) stop now with Ctrl-C and run again with"
      say "PROOFYARD_TORCH_INDEX set to an index that carries '+cpu' wheels."
      [ ! -t 0 ] || sleep 10
    fi
    say "installing $torch"
    "${pip[@]}" install "${torch_args[@]}" -c constraints.txt
  fi
  say "installing Python packages into .venv"
  "${pip[@]}" install -c constraints.txt -e '.[dev]'
  echo "$want" >.venv/.stamp
fi

# What holds strangers' jobs best (docs/sandbox.md); without it Landlock and seccomp do, so a failure is none.
if ! command -v bwrap >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] && [ ! -e .venv/.no-bubblewrap ]; then
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends bubblewrap >/dev/null 2>&1 ||
    touch .venv/.no-bubblewrap
fi

if ! { command -v anvil && command -v forge && [ -d node_modules/solc ]; } >/dev/null 2>&1 || [ ! -d node_modules/solady ]; then
  want=$(stamp_of package.json package-lock.json)
  if [ "$(cat node_modules/.stamp 2>/dev/null)" != "$want" ]; then
    command -v npm >/dev/null || die "npm is needed for Foundry and the contract libraries (apt install npm)."
    say "installing Foundry, solc and the contract libraries into node_modules"
    # Not `npm ci`: it wants every platform of Foundry in the lock file, and some are not in every registry.
    npm install --no-save --silent --no-progress ||
      die "npm could not install the packages of package.json; run: npm install --no-save"
    echo "$want" >node_modules/.stamp
  fi
fi
