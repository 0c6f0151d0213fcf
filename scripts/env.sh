# Source this file, it is not run: . scripts/env.sh   (bash or zsh, after scripts/setup)
#
# Afterwards `python`, `colcon` and the executables of this workspace are found, and rclpy and
# vla_retrieval_msgs can be imported. Where a ROS 2 installation is sourced already (ROS_DISTRO is
# set), that one is used and only the workspace is added; otherwise ROS 2 comes from the wheels in .venv.

if [ -n "${ZSH_VERSION:-}" ]; then
  eval '_vla_here=${(%):-%x}' # zsh's name for BASH_SOURCE; in an eval because bash cannot parse it
else
  _vla_here=${BASH_SOURCE[0]}
fi
# A shell's CDPATH would lead a relative path elsewhere.
_vla_root=$(CDPATH='' cd "$(dirname "$_vla_here")/.." > /dev/null && pwd)
unset _vla_here

if [ -n "${ROS_DISTRO:-}" ] && [ -d "$_vla_root/.venv/share/ament_index" ]; then
  # Two rclpy in one process fail in ways that do not name the cause.
  echo "error: .venv holds ROS 2 as wheels, and this shell has ROS 2 $ROS_DISTRO sourced" >&2
  echo "       use a shell without it, or start over:  rm -rf .venv build install && scripts/setup" >&2
  unset _vla_root
  return 1
elif [ ! -x "$_vla_root/.venv/bin/python" ] && [ ! -f "$_vla_root/install/local_setup.sh" ]; then
  echo "error: nothing is set up in $_vla_root: call scripts/setup first" >&2
  unset _vla_root
  return 1
fi

# colcon's generated scripts read unset variables, so a caller's `set -u` is put back only after them.
case $- in *u*) _vla_nounset=1 ;; *) _vla_nounset=0 ;; esac
set +u

_vla_prepend() { # NAME DIRECTORY: put DIRECTORY first in the list $NAME, unless it is in it
  eval "_vla_value=\${$1:-}"
  case ":$_vla_value:" in
    *":$2:"*) ;;
    *) export "$1=$2${_vla_value:+:$_vla_value}" ;;
  esac
}

if [ -x "$_vla_root/.venv/bin/python" ]; then
  export VIRTUAL_ENV="$_vla_root/.venv"
  case $PATH in # first, also before an environment that was activated since the last time
    "$VIRTUAL_ENV/bin:"*) ;;
    *) export PATH="$VIRTUAL_ENV/bin:$PATH" ;;
  esac
  unset PYTHONHOME
  # colcon's scripts would otherwise start the Python that built the workspace by its bare name.
  export COLCON_PYTHON_EXECUTABLE="$VIRTUAL_ENV/bin/python"
fi

if [ -z "${ROS_DISTRO:-}" ] && [ -d "$_vla_root/.venv/share/ament_index" ]; then
  # The environment itself is the ROS 2 prefix (lib/, share/, include/).
  _vla_prepend AMENT_PREFIX_PATH "$VIRTUAL_ENV"
  # The dynamic loader reads LD_LIBRARY_PATH once, when a process starts, so the wheels put a hook into
  # every start of Python that sets it and executes Python again (same process id, same arguments).
  # The hook passes its "done" mark on to child processes; a mark that came from another environment
  # would leave this one's libraries unfound.
  unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
  # Fast DDS's default transports lose large best-effort messages: 0 to 11% of VGA images at 15 Hz
  # arrived, against 100% with this profile. A transport that the caller chose is kept.
  if [ -z "${FASTDDS_BUILTIN_TRANSPORTS:-}${FASTDDS_DEFAULT_PROFILES_FILE:-}" ]; then
    export FASTDDS_DEFAULT_PROFILES_FILE="$_vla_root/config/fastdds_large_images.xml"
  fi
fi

if [ -f "$_vla_root/install/local_setup.sh" ]; then
  # local_setup.* (not setup.*): the layers below are set already, and a .venv has no setup file to chain to.
  if [ -n "${ZSH_VERSION:-}" ]; then
    . "$_vla_root/install/local_setup.zsh"
  else
    . "$_vla_root/install/local_setup.bash"
  fi
fi

[ "$_vla_nounset" = 0 ] || set -u
unset -f _vla_prepend
unset _vla_root _vla_nounset _vla_value
