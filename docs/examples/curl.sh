#!/usr/bin/env bash
# The whole loop with curl, against a running service:
#
#     bandit-router serve --config router.toml &
#     docs/examples/curl.sh
#
# BASE is where it listens. KEY is a key with the scopes route and feedback; without one, the service must be
# on this machine and have no keys.
set -euo pipefail

BASE=${BASE:-http://127.0.0.1:8080}
KEY=${KEY:-}

# call METHOD PATH [BODY] [more of curl's options]
call() {
    local method=$1 path=$2 body=${3:-}
    shift $(($# < 3 ? $# : 3))
    curl --silent --show-error --fail-with-body --retry 3 --max-time 10 --request "$method" "$BASE$path" \
        ${KEY:+--header "Authorization: Bearer $KEY"} \
        ${body:+--header "Content-Type: application/json" --data "$body"} "$@"
}

# field NAME < JSON
field() {
    python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}

echo "# Which model is to answer? The key makes a repeated request the same decision."
decision=$(call POST /v1/decisions '{"prompt": "Explain quantum computing", "user": "user:42"}' \
    --header "Idempotency-Key: $(date +%s)-$$") || { echo "$decision" >&2; exit 1; }
echo "$decision"
id=$(field id <<<"$decision")
token=$(field feedback_token <<<"$decision")

echo "# How the call went, once the model has answered."
call POST /v1/outcomes "{\"decision_id\": \"$id\", \"input_tokens\": 12, \"output_tokens\": 240,
    \"latency_s\": 1.9, \"answer\": \"A qubit is ...\"}"
echo

echo "# A thumb, as the user's browser sends it: with the token of this one decision."
KEY=$token call POST /v1/feedback "{\"decision_id\": \"$id\", \"name\": \"thumb\", \"value\": true}"
echo

echo "# Another one, sent by the backend for another user, and taken back."
heard=$(call POST /v1/feedback \
    "{\"decision_id\": \"$id\", \"name\": \"thumb\", \"value\": false, \"source\": \"user:43\"}")
echo "$heard"
call DELETE "/v1/feedback/$(field id <<<"$heard")"
echo

echo "# The whole story."
call GET "/v1/decisions/$id"
echo

echo "# What is believed of each model now."
call GET "/v1/routers/$(field router <<<"$decision")/beliefs"
echo
