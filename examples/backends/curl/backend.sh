#!/usr/bin/env bash
# A plugin's backend behind alipay-sidecar, of curl and sed. It can't be called, so it asks for what came
# (POST /events/claim); leave `delivery.url` empty for it.
#
#   backend.sh login CODE               prints the user's id
#   backend.sh pay ORDER AMOUNT USER    prints the trade's number
#   backend.sh events                   prints the paid orders that Alipay told of, and takes them
#
# Ends with 1 where it failed, with 2 where what is asked can't be, with 3 where nobody knows what became of it.
#
# Environment: SIDECAR, MERCHANT, as ../README.md says; ORDERS, a file of the orders (orders.txt).
set -euo pipefail
sidecar=${SIDECAR:-http://127.0.0.1:2088}
merchant=${MERCHANT:-shop}
orders=${ORDERS:-orders.txt}

# Nothing of the environment's proxies; longer than the sidecar's own deadline (15 s), which knows better
# what became of a call.
ask() { curl --silent --show-error --noproxy '*' --max-time 20 "$@"; }

# A member of one of Alipay's nodes, which are flat.
member() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

# A parameter of a form whose value needs no decoding.
parameter() { tr '&' '\n' | sed -n "s/^$1=//p"; }

# An amount in fen, nothing where it is none: Alipay says `8.80` of what was ordered as `8.8`.
fen() {
  [[ $1 =~ ^([0-9]{1,9})(\.([0-9]{1,2}))?$ ]] || return 0
  local decimals=${BASH_REMATCH[3]}00
  echo "$((10#${BASH_REMATCH[1]}${decimals:0:2}))"
}

# Calls Alipay for the merchant: unsigned; what comes back is verified. Ends with 3 where Alipay may have
# acted on it without that we know, with 1 where it hasn't.
call() { # METHOD (a query behind it) BIZ_CONTENT
  local head answer code sub_code
  # The head, an empty line, and the node.
  answer=$(ask --include -H "Alipay-Merchant: $merchant" -d "$2" "$sidecar/v2/$1") || return 3
  answer=${answer//$'\r'/}
  head=${answer%%$'\n\n'*} answer=${answer#*$'\n\n'}
  if grep -qi '^alipay-sidecar-outcome: not-sent' <<<"$head"; then echo "$answer" >&2; return 1; fi
  # An error whose outcome is unknown, and what Alipay didn't sign (`unsigned-error`).
  if ! grep -qi '^alipay-sidecar-verified: true' <<<"$head"; then echo "$answer" >&2; return 3; fi
  code=$(member code <<<"$answer") sub_code=$(member sub_code <<<"$answer")
  case "$code $sub_code" in
    # Alipay leaves `code` out of some successes (alipay.system.oauth.token). 10003 is one, too: under way,
    # and not finished, which a notification or a query tells.
    ' '* | '10000 '* | '10003 '*) echo "$answer" ;;
    # Alipay stumbled, and may have acted all the same.
    '20000 '* | *.SYSTEM_ERROR | *' isp.'*) echo "$answer" >&2; return 3 ;;
    *) echo "$answer" >&2; return 1 ;;
  esac
}

case "${1:-} $#" in
  'login 2')
    token=$(call "alipay.system.oauth.token?grant_type=authorization_code&code=$2" '')
    user=$(member user_id <<<"$token")
    user=${user:-$(member open_id <<<"$token")}
    if [ -z "$user" ]; then echo "user-missing: $token" >&2; exit 3; fi
    echo "$user"
    ;;
  'pay 4')
    if [[ ! $2 =~ ^[A-Za-z0-9_-]{1,64}$ || ! $(fen "$3") -gt 0 ]]; then echo "no order, or no amount" >&2; exit 2; fi
    # Known before it can be paid: the notification may be quicker than the reply.
    touch "$orders"
    # A line that a full disk cut off is marked, and is none.
    [ -z "$(tail -c 1 "$orders")" ] || echo ' ?' >>"$orders"
    known=$(sed -n "/^$2 [0-9 ]*\$/{s/^$2 \([0-9]*\).*/\1/p;q}" "$orders")
    if [ "${known:-$(fen "$3")}" != "$(fen "$3")" ]; then echo "the order has another amount" >&2; exit 2; fi
    [ -n "$known" ] || echo "$2 $(fen "$3")" >>"$orders"
    biz="{\"out_trade_no\":\"$2\",\"total_amount\":\"$3\",\"subject\":\"order $2\",\"buyer_id\":\"$4\"}"
    status=0
    trade=$(call "alipay.trade.create?notify_url=/orders/$2" "$biz") || status=$?
    # Bytes had left, so the trade may be there: ask. If that fails it is the query's failure, not the making's,
    # and a trade that isn't there yet may still come to be.
    if [ "$status" = 3 ]; then trade=$(call alipay.trade.query "{\"out_trade_no\":\"$2\"}") || exit 3; status=0; fi
    [ "$status" = 0 ] || exit "$status"
    trade_no=$(member trade_no <<<"$trade")
    # A reply may leave it out, as while a payment is under way; what is known stays.
    if [ -z "$trade_no" ]; then trade_no=$(sed -n "s/^$2 [0-9]* \([0-9][0-9]*\)\$/\1/p" "$orders" | tail -n 1); fi
    # Without any, no notification would ever be taken for this order's own.
    if [ -z "$trade_no" ]; then
      trade=$(call alipay.trade.query "{\"out_trade_no\":\"$2\"}") || exit 3
      trade_no=$(member trade_no <<<"$trade")
    fi
    if [ -z "$trade_no" ]; then echo "trade-no-missing: $trade" >&2; exit 3; fi
    # The trade is there all the same.
    echo "$2 $(fen "$3") $trade_no" >>"$orders" || { echo "order-not-kept: $trade" >&2; exit 3; }
    echo "$trade_no"
    ;;
  'events 1')
    claim='{"max":1,"lease":"30s","wait":"10s"}'
    items=$(ask --fail-with-body "$sidecar/events/claim" -d "$claim") || { echo "no claim: $items" >&2; exit 1; }
    id=$(member id <<<"$items")
    [ -n "$id" ] || exit 0
    body=$(member body <<<"$items")
    # Work on it first, then say that it is taken: what isn't acked comes again.
    case $(parameter trade_status <<<"$body") in
      TRADE_SUCCESS | TRADE_FINISHED)
        order=$(parameter out_trade_no <<<"$body")
        told="$order $(fen "$(parameter total_amount <<<"$body")") $(parameter trade_no <<<"$body")"
        # Another merchant may have an order of this name, so its trade counts, too.
        if ! grep -qxF "$told" "$orders"; then
          echo "no such order, or another amount or trade: $body" >&2
          exit 1
        fi
        echo "$order"
        ;;
    esac
    told=$(ask --fail-with-body "$sidecar/events/$id/ack" -d '{}') || { echo "not taken: $told" >&2; exit 1; }
    ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
