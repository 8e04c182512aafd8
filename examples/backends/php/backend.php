<?php
// A plugin's backend behind alipay-sidecar, with PHP's own functions alone:
// `php -S 127.0.0.1:3000 backend.php`.
//
// Routes and environment: ../README.md. Between requests PHP remembers nothing, so orders are kept in a
// file here (`ORDERS`, else orders.json in the system's temporary directory); keep yours in a database, and
// commit before you answer `success`.

declare(strict_types=1);

// What PHP would warn of and go on is an error here, but behind `@`: a file that can't be written is no success.
set_error_handler(function (int $level, string $text, string $file, int $line): bool {
    return error_reporting() & $level ? throw new ErrorException($text, 0, $level, $file, $line) : false;
}, E_NOTICE | E_WARNING);

/** A call that brought no verified answer; `outcome` says whether Alipay may have acted on it. */
final class Failed extends RuntimeException
{
    public function __construct(public readonly string $error, public readonly string $outcome)
    {
        parent::__construct("$error ($outcome)");
    }
}

/** Alipay's own, verified no. */
final class Refused extends RuntimeException
{
    public readonly string $error;

    public function __construct(array $node)
    {
        $this->error = $node['sub_code'] ?? $node['code'];
        parent::__construct($this->error);
    }
}

/** The order is known, with another amount. */
final class Conflict extends RuntimeException
{
}

/** Changes the orders, one request at a time; gives what `$change` gives. */
function orders(callable $change): mixed
{
    $path = getenv('ORDERS') ?: sys_get_temp_dir() . '/orders.json';
    // Until it is closed, which the end of this function does.
    $lock = fopen("$path.lock", 'c');
    flock($lock, LOCK_EX);
    // A file that is no JSON, or empty, throws: what is left in it isn't written over.
    $json = is_file($path) ? file_get_contents($path) : '{}';
    $known = $orders = json_decode($json, true, flags: JSON_THROW_ON_ERROR);
    $given = $change($orders);
    // Whole or not at all: on a disk that is full, what is known stays.
    if ($orders !== $known) {
        file_put_contents("$path.new", json_encode((object) $orders, JSON_THROW_ON_ERROR));
        rename("$path.new", $path);
    }
    return $given;
}

/** A header of an answer, by its name in lower case. */
function header_of(array $lines, string $name): string
{
    foreach ($lines as $line) {
        [$key, $value] = array_pad(explode(':', $line, 2), 2, '');
        if (strtolower($key) === $name) {
            return trim($value);
        }
    }
    return '';
}

/** Calls Alipay for the merchant: unsigned; what comes back is verified. */
function call(string $method, ?array $biz, array $params = []): array
{
    $merchant = getenv('MERCHANT') ?: 'shop';
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => ["Alipay-Merchant: $merchant", 'Content-Type: application/json', 'Connection: close'],
        'content' => $biz === null ? '' : json_encode($biz, JSON_INVALID_UTF8_SUBSTITUTE | JSON_UNESCAPED_UNICODE),
        // Longer than the sidecar's own deadline (15 s): it knows better what became of a call.
        'timeout' => 20,
        'ignore_errors' => true,
    ]]);
    $sidecar = getenv('SIDECAR') ?: 'http://127.0.0.1:2088';
    $stream = @fopen("$sidecar/v2/$method?" . http_build_query($params), 'r', false, $context);
    if ($stream === false) {
        throw new Failed('sidecar-unreachable', 'unknown');
    }
    $head = stream_get_meta_data($stream)['wrapper_data'];
    if (!preg_match('~^HTTP/\S+ 200\b~', $head[0])) {
        $outcome = header_of($head, 'alipay-sidecar-outcome') ?: 'unknown';
        throw new Failed(header_of($head, 'alipay-sidecar-error'), $outcome);
    }
    $node = json_decode((string) @stream_get_contents($stream), true);
    // It was cut off: it may have been a success.
    if (!is_array($node)) {
        throw new Failed('reply-lost', 'unknown');
    }
    // `unsigned-error`: nobody knows who said it.
    $verified = header_of($head, 'alipay-sidecar-verified');
    if ($verified !== 'true') {
        throw new Failed($verified, 'unknown');
    }
    // Alipay leaves `code` out of some successes (alipay.system.oauth.token). 10003 is one, too: under way,
    // and not finished, which a notification or a query tells.
    [$code, $sub_code] = [$node['code'] ?? '10000', $node['sub_code'] ?? ''];
    if ($code === '10000' || $code === '10003') {
        return $node;
    }
    // Alipay stumbled, and may have acted all the same.
    if ($code === '20000' || str_ends_with($sub_code, '.SYSTEM_ERROR') || str_starts_with($sub_code, 'isp.')) {
        throw new Failed($sub_code ?: $code, 'unknown');
    }
    throw new Refused($node);
}

function login(string $code): array
{
    $token = call('alipay.system.oauth.token', null, ['grant_type' => 'authorization_code', 'code' => $code]);
    $user = ($token['user_id'] ?? '') ?: ($token['open_id'] ?? '');
    return $user !== '' ? ['user' => $user] : throw new Failed('user-missing', 'unknown');
}

/** An amount in fen, 0 where it is none: Alipay says `8.80` of what was ordered as `8.8`. */
function fen(string $amount): int
{
    $is_amount = preg_match('/^([0-9]{1,9})(?:\.([0-9]{1,2}))?$/D', $amount, $parts);
    return $is_amount ? (int) ($parts[1] . str_pad($parts[2] ?? '', 2, '0')) : 0;
}

function create(string $order, string $amount, string $user): array
{
    $biz = [
        'out_trade_no' => $order,
        'total_amount' => $amount,
        'subject' => "order $order",
        'buyer_id' => $user,
        'product_code' => 'JSAPI_PAY',
    ];
    // Known before it can be paid: the notification may be quicker than the reply.
    $new = ['order' => $order, 'amount' => $amount, 'trade_no' => null, 'paid' => false];
    $known = orders(function (array &$orders) use ($order, $new) {
        return $orders[$order] ??= $new;
    });
    if (fen($known['amount']) !== fen($amount)) {
        throw new Conflict('the order has another amount');
    }
    try {
        $trade = call('alipay.trade.create', $biz, ['notify_url' => '/orders/' . rawurlencode($order)]);
    } catch (Failed $failed) {
        if ($failed->outcome !== 'unknown') {
            throw $failed;
        }
        $trade = query($order);
    }
    // A reply may leave it out, as while a payment is under way; what is known stays. Without any, no
    // notification would ever be taken for this order's own.
    if (($trade['trade_no'] ?? '') === '' && $known['trade_no'] === null) {
        $trade = query($order);
        if (($trade['trade_no'] ?? '') === '') {
            throw new Failed('trade-no-missing', 'unknown');
        }
    }
    try {
        return orders(function (array &$orders) use ($order, $trade) {
            $orders[$order]['trade_no'] = ($trade['trade_no'] ?? '') ?: $orders[$order]['trade_no'];
            return $orders[$order];
        });
    } catch (Throwable $error) {
        // The trade is there, and nothing here knows its number.
        error_log((string) $error);
        throw new Failed('order-not-kept', 'unknown');
    }
}

/** Asks for a trade whose making has an unknown outcome: bytes had left, so it may be there. */
function query(string $order): array
{
    try {
        return call('alipay.trade.query', ['out_trade_no' => $order]);
    } catch (Failed | Refused $error) {
        // Of the query, and not of the making; a trade that isn't there yet may still come to be.
        throw new Failed($error->error, 'unknown');
    }
}

/** Whether the sidecar sent this (Standard Webhooks): whoever reaches this port may claim to be it. */
function is_from_sidecar(string $body): bool
{
    $secret = trim(getenv('WEBHOOK_SECRET') ?: '');
    // What delivery.signing_secret means: base64 behind `whsec_`, else the text itself.
    $is_encoded = str_starts_with($secret, 'whsec_');
    $key = $is_encoded ? (string) base64_decode(substr($secret, strlen('whsec_'))) : $secret;
    $id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
    $sent = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
    // More than five minutes off: somebody kept it, and sends it again.
    if ($key === '' || !preg_match('/^[0-9]{1,12}$/D', $sent) || abs(time() - (int) $sent) > 300) {
        return false;
    }
    $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$sent.$body", $key, true));
    return hash_equals($expected, $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '');
}

/** Takes what Alipay told; the sidecar verified it. May come twice, so it only ever says “is so”. */
function event(string $kind, array $form): bool
{
    $paid = in_array($form['trade_status'] ?? '', ['TRADE_SUCCESS', 'TRADE_FINISHED'], true);
    if ($kind !== 'trade_status_sync' || !$paid) {
        return true;
    }
    return orders(function (array &$orders) use ($form) {
        $name = $form['out_trade_no'] ?? '';
        if (!isset($orders[$name]) || fen($orders[$name]['amount']) !== fen($form['total_amount'] ?? '')) {
            return false;
        }
        // Another merchant may have an order of this name. Before the reply told the trade, let it come again.
        if ($orders[$name]['trade_no'] !== ($form['trade_no'] ?? '')) {
            return false;
        }
        $orders[$name]['paid'] = true;
        return true;
    });
}

function answer(int $status, array|object $value): void
{
    http_response_code($status);
    header('Content-Type: application/json');
    echo json_encode($value, JSON_INVALID_UTF8_SUBSTITUTE);
}

function asked(string $name): string
{
    $value = $_GET[$name] ?? '';
    return is_string($value) && $value !== '' ? $value : throw new InvalidArgumentException("$name is missing");
}

$path = explode('?', $_SERVER['REQUEST_URI'])[0];
$is_get = $_SERVER['REQUEST_METHOD'] === 'GET';
$is_post = $_SERVER['REQUEST_METHOD'] === 'POST';
// By what needs no escapes.
$order = preg_match('~^/orders/([A-Za-z0-9_-]{1,64})$~D', $path, $parts) ? $parts[1] : null;
try {
    if ($is_post && $path === '/alipay/events' && !is_from_sidecar(file_get_contents('php://input'))) {
        http_response_code(401);
        header('Content-Type: text/plain');
        echo 'not signed with WEBHOOK_SECRET';
    } elseif ($is_post && $path === '/alipay/events') {
        // In the charset that Content-Type names; UTF-8 where calls are made in UTF-8, as here.
        $taken = event($_SERVER['HTTP_ALIPAY_EVENT_TYPE'] ?? '', $_POST);
        http_response_code($taken ? 200 : 500);
        header('Content-Type: text/plain');
        echo $taken ? 'success' : 'fail';
    } elseif ($is_get && $path === '/login') {
        answer(200, login(asked('code')));
    } elseif ($is_post && $order !== null) {
        if (fen(asked('amount')) === 0) {
            throw new InvalidArgumentException('amount is none');
        }
        answer(200, create($order, asked('amount'), asked('user')));
    } elseif ($is_get && $order !== null && ($known = orders(fn (array &$orders) => $orders[$order] ?? null))) {
        answer(200, $known);
    } else {
        answer(404, (object) []);
    }
} catch (InvalidArgumentException $error) {
    answer(400, ['error' => $error->getMessage()]);
} catch (Conflict $conflict) {
    answer(409, ['error' => $conflict->getMessage()]);
} catch (Refused $refused) {
    answer(422, ['error' => $refused->error]);
} catch (Failed $failed) {
    answer(502, ['error' => $failed->error, 'outcome' => $failed->outcome]);
} catch (Throwable $error) {
    // Left to PHP it would be 200 where `display_errors` is on, as it is without a php.ini.
    error_log((string) $error);
    answer(500, ['error' => 'internal']);
}
