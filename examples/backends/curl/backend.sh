#!/usr/bin/env bash
# A plugin's backend behind alipay-sidecar, of curl and sed. It can't be called, so it asks for what came
# (POST /events/claim); leave `delivery.url` empty for it.
#
#   backend.sh login CODE               prints the user's id
#   backend.sh pay ORDER AMOUNT USER    prints the trade's number
#   backend.sh events                   prints the paid orders that Alipay told of, and takes them
#
# Environment: SIDECAR, MERCHANT, as ../README.md says.
set -euo pipefail
sidecar=${SIDECAR:-http://127.0.0.1:2088}
merchant=${MERCHANT:-shop}

# Nothing of the environment's proxies; longer than the sidecar's own deadline (15 s), which knows better
# what became of a call.
ask() { curl --silent --show-error --noproxy '*' --max-time 20 "$@"; }

# A member of one of Alipay's nodes, which are flat.
member() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

# Calls Alipay for the merchant: unsigned; what comes back is verified. Ends with 3 where Alipay may have
# acted on it without that we know, with 1 where it hasn't.
call() { # METHOD BIZ_CONTENT [CURL'S FURTHER ARGUMENTS: a query by --url-query or in METHOD]
  local head code node
  head=$(mktemp)
  node=$(ask -D "$head" -H "Alipay-Merchant: $merchant" -d "$2" "$sidecar/v2/$1") || return 3
  if grep -qi '^alipay-sidecar-outcome: unknown' "$head"; then rm "$head"; return 3; fi
  if grep -qi '^alipay-sidecar-error:' "$head"; then rm "$head"; echo "$node" >&2; return 1; fi
  rm "$head"
  # Alipay leaves `code` out of some successes (alipay.system.oauth.token).
  code=$(member code <<<"$node")
  if [ "${code:-10000}" != 10000 ]; then echo "$node" >&2; return 1; fi
  echo "$node"
}

case "${1:-} $#" in
  'login 2')
    call "alipay.system.oauth.token?grant_type=authorization_code&code=$2" '' | member user_id
    ;;
  'pay 4')
    biz="{\"out_trade_no\":\"$2\",\"total_amount\":\"$3\",\"subject\":\"order $2\",\"buyer_id\":\"$4\"}"
    status=0
    trade=$(call "alipay.trade.create?notify_url=/orders/$2" "$biz") || status=$?
    # Bytes had left, so the trade may be there: ask, and never assume.
    if [ "$status" = 3 ]; then trade=$(call alipay.trade.query "{\"out_trade_no\":\"$2\"}"); status=$?; fi
    [ "$status" = 0 ] || exit "$status"
    member trade_no <<<"$trade"
    ;;
  'events 1')
    ask "$sidecar/events/claim" -d '{"max":1,"lease":"30s","wait":"10s"}' | {
      read -r items || [ -n "$items" ]
      id=$(member id <<<"${items//\},\{/$'\n'}")
      [ -n "$id" ] || exit 0
      body=$(member body <<<"$items")
      # Work on it first, then say that it is taken: what isn't acked comes again.
      if grep -q 'trade_status=TRADE_SUCCESS' <<<"$body"; then
        grep -o 'out_trade_no=[^&]*' <<<"$body" | cut -d= -f2
      fi
      ask "$sidecar/events/$id/ack" -d '{}'
    }
    ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
