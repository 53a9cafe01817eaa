#!/bin/sh
# Entry point of the image that puts Godwit on its node or takes it off. The pod is privileged and sees the node's processes (hostPID).
#
#   node.sh install WORD…    `godwit-install node WORD…` on the node until it is done; then keeps the agent's token fresh
#   node.sh revert WORD…     `godwit-install node --revert WORD…` on the node until it is done; then stays
#
# The installer runs in the node's namespaces and takes its programs through this process's entry in /proc: nothing is written on the
# node before it was checked. What the installer says is this container's log. It may restart containerd and the kubelet: this
# container runs on. However it ends, the next run goes on where it was.
set -eu

release=/godwit              # the programs of a release, in the image
settings=/settings           # agent.toml to begin with: a ConfigMap
account=/var/run/secrets/kubernetes.io/serviceaccount
ready=/tmp/ready             # for the readiness probe
own=/proc/$$/root            # this container's files, as the node sees them
node=/proc/1/root            # the node's files, as this container sees them
etc=/etc/godwit
again=10                     # seconds from one run to the next
fresh=60                     # seconds between two looks at the token

on_node() {
    nsenter --target 1 --mount --uts --ipc --net --cgroup -- "$@"
}

# What an agent begins with, as the ConfigMap says it now.
begin_with() {
    test -e "$settings/agent.toml" || return 0
    { echo "node = \"$NODE\""; cat "$settings/agent.toml"; } >/tmp/agent.toml
}

# 0: done. Anything else has been told, and is either somebody's on the node to do (10) or may be mended there or in the ConfigMap
# (refused).
until_done() {
    while begin_with; ! on_node "$own$release/godwit-install" node "$@"; do
        sleep "$again"
    done
}

# A file of the node, root's alone, in one step.
put() {
    mkdir -p "$node$etc"
    (umask 077 && cat >"$node$etc/.$1.new")
    mv -f "$node$etc/.$1.new" "$node$etc/$1"
}

# This pod's token is the agents', and bound to this node; the kubelet renews it.
token() {
    test "$(cat "$account/token")" = "$(cat "$node$etc/token" 2>/dev/null)" || put token <"$account/token"
}

# One that somebody else has made stays.
kubeconfig() {
    kept=$node$etc/kubeconfig
    if test -e "$kept" && ! grep -q "tokenFile: $etc/token" "$kept"; then
        return
    fi
    case $KUBERNETES_SERVICE_HOST in
        *:*) host="[$KUBERNETES_SERVICE_HOST]" ;;
        *) host=$KUBERNETES_SERVICE_HOST ;;
    esac
    put kubeconfig <<END
apiVersion: v1
kind: Config
clusters:
  - name: own
    cluster:
      server: https://$host:$KUBERNETES_SERVICE_PORT
      certificate-authority-data: $(base64 -w 0 "$account/ca.crt")
users:
  - name: godwit-agent
    user:
      tokenFile: $etc/token
contexts:
  - name: own
    context: {cluster: own, user: godwit-agent}
current-context: own
END
}

case $1 in
install)
    shift
    set -- --from "$own$release" --agent-config "$own/tmp/agent.toml" "$@"
    until_done --check "$@"
    # The agent is started with these.
    kubeconfig
    token
    until_done "$@"
    touch "$ready"
    while sleep "$fresh"; do
        token
    done
    ;;
revert)
    shift
    until_done --revert "$@"
    if grep -qs "tokenFile: $etc/token" "$node$etc/kubeconfig"; then
        rm -f "$node$etc/kubeconfig" "$node$etc/token"
    fi
    touch "$ready"
    exec sleep infinity
    ;;
*)
    echo "$1 is neither install nor revert" >&2
    exit 2
    ;;
esac
