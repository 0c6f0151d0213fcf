# Sourced by the scripts: how they say what they do.

if [ -t 2 ]; then BOLD=$'\033[1m' RED=$'\033[31m' PLAIN=$'\033[0m'; else BOLD='' RED='' PLAIN=''; fi
STEPS=0 # how many steps did something

say() { # MESSAGE: what is going on. On stderr, so that the last line of stdout is the test runner's.
  printf '%s\n' "$BOLD==>$PLAIN $*" >&2
}

stop() { # CAUSE [NEXT_STEP]: end with an error.
  printf '%s\n' "${RED}error:$PLAIN $1" >&2
  [ $# -lt 2 ] || printf '       %s\n' "$2" >&2
  exit 1
}

step() { # TITLE COMMAND...: run a command, say how long it took, end with an error if it failed.
  local title=$1 begin=$SECONDS
  shift
  say "$title"
  "$@" >&2 || stop "failed: $title"
  STEPS=$((STEPS + 1))
  printf '    done in %d s\n' $((SECONDS - begin)) >&2
}
