# Sourced by the scripts that run something: sets up what is missing, then an environment of its own.

. scripts/lib/steps.sh
scripts/setup
. scripts/env.sh

# Logs of nodes and of the tests' other children go away with the run, and not into the home directory.
TEMPORARY=$(mktemp -d -t vla_retrieval.XXXXXX)
trap 'rm -rf "$TEMPORARY"' EXIT
export ROS_LOG_DIR="$TEMPORARY/ros_log"

# A run neither hears nor disturbs another robot's or another run's nodes. Domains above 101 would take
# ports that Linux hands out to clients.
export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export ROS_DOMAIN_ID="${VLA_TEST_DOMAIN_ID:-$((RANDOM % 101 + 1))}"

# No test and no demo may depend on a hub. Without this a missing file would become a network wait.
export HF_HUB_OFFLINE=1

# Spinning OpenMP threads took eager bf16 from 60 to 1700 ms beside one busy process; passive ones to 90.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"

# Nobody answers questions in CI, and pip, git or apt would wait for one.
[ -t 0 ] || exec < /dev/null
