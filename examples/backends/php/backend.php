<?php
// A plugin's backend behind alipay-sidecar, with PHP's own functions alone:
// `php -S 127.0.0.1:3000 backend.php`.
//
// Routes and environment: ../README.md. Between requests PHP remembers nothing, so orders are kept in a
// file here; keep yours in a database, and commit before you answer `success`.

declare(strict_types=1);

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

/** Changes the orders, one request at a time; gives what `$change` gives. */
function orders(callable $change): mixed
{
    $file = fopen(getenv('ORDERS') ?: sys_get_temp_dir() . '/orders.json', 'c+');
    flock($file, LOCK_EX);
    $orders = json_decode(stream_get_contents($file) ?: '{}', true);
    $given = $change($orders);
    rewind($file);
    ftruncate($file, 0);
    fwrite($file, json_encode((object) $orders));
    fflush($file);
    flock($file, LOCK_UN);
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
        'content' => $biz === null ? '' : json_encode($biz, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES),
        // Longer than the sidecar's own deadline (15 s): it knows better what became of a call.
        'timeout' => 20,
        'ignore_errors' => true,
    ]]);
    $sidecar = getenv('SIDECAR') ?: 'http://127.0.0.1:2088';
    $reply = @file_get_contents("$sidecar/v2/$method?" . http_build_query($params), false, $context);
    if ($reply === false) {
        throw new Failed('sidecar-unreachable', 'unknown');
    }
    $error = header_of($http_response_header, 'alipay-sidecar-error');
    if ($error !== '') {
        throw new Failed($error, header_of($http_response_header, 'alipay-sidecar-outcome'));
    }
    $node = json_decode($reply, true);
    if (!is_array($node)) {
        throw new Failed('reply-lost', 'unknown');
    }
    // Alipay leaves `code` out of some successes (alipay.system.oauth.token).
    if (($node['code'] ?? '10000') !== '10000') {
        throw new Refused($node);
    }
    return $node;
}

function login(string $code): array
{
    $token = call('alipay.system.oauth.token', null, ['grant_type' => 'authorization_code', 'code' => $code]);
    return ['user' => $token['user_id'] ?? $token['open_id']];
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
    orders(function (array &$orders) use ($order, $new) {
        $orders[$order] ??= $new;
    });
    try {
        $trade = call('alipay.trade.create', $biz, ['notify_url' => '/orders/' . rawurlencode($order)]);
    } catch (Failed $failed) {
        if ($failed->outcome !== 'unknown') {
            throw $failed;
        }
        // Bytes had left, so the trade may be there: ask, and never assume.
        $trade = call('alipay.trade.query', ['out_trade_no' => $order]);
    }
    return orders(function (array &$orders) use ($order, $trade) {
        $orders[$order]['trade_no'] = $trade['trade_no'];
        return $orders[$order];
    });
}

/** Takes what Alipay told; the sidecar verified it. May come twice, so it only ever says “is so”. */
function event(string $kind, array $form): bool
{
    $paid = in_array($form['trade_status'] ?? '', ['TRADE_SUCCESS', 'TRADE_FINISHED'], true);
    if ($kind !== 'trade_status_sync' || !$paid) {
        return true;
    }
    return orders(function (array &$orders) use ($form) {
        $name = $form['out_trade_no'];
        if (($orders[$name]['amount'] ?? null) !== $form['total_amount']) {
            return false;
        }
        $orders[$name] = ['paid' => true, 'trade_no' => $form['trade_no']] + $orders[$name];
        return true;
    });
}

function answer(int $status, array|object $value): void
{
    http_response_code($status);
    header('Content-Type: application/json');
    echo json_encode($value);
}

function asked(string $name): string
{
    return $_GET[$name] ?? throw new InvalidArgumentException("$name is missing");
}

$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
$is_post = $_SERVER['REQUEST_METHOD'] === 'POST';
$order = str_starts_with($path, '/orders/') ? substr($path, strlen('/orders/')) : null;
try {
    if ($is_post && $path === '/alipay/events') {
        // In the charset that Content-Type names; UTF-8 where calls are made in UTF-8, as here.
        $taken = event($_SERVER['HTTP_ALIPAY_EVENT_TYPE'] ?? '', $_POST);
        http_response_code($taken ? 200 : 500);
        header('Content-Type: text/plain');
        echo $taken ? 'success' : 'fail';
    } elseif (!$is_post && $path === '/login') {
        answer(200, login(asked('code')));
    } elseif ($is_post && $order !== null) {
        answer(200, create($order, asked('amount'), asked('user')));
    } elseif ($order !== null && ($known = orders(fn (array &$orders) => $orders[$order] ?? null))) {
        answer(200, $known);
    } else {
        answer(404, (object) []);
    }
} catch (InvalidArgumentException $error) {
    answer(400, ['error' => $error->getMessage()]);
} catch (Refused $refused) {
    answer(422, ['error' => $refused->error]);
} catch (Failed $failed) {
    answer(502, ['error' => $failed->error, 'outcome' => $failed->outcome]);
}
