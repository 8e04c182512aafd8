// A plugin's backend behind alipay-sidecar, with the JDK (17 or newer) alone: `java Backend.java`.
//
// Routes and environment: ../README.md. Orders are kept in memory here; keep yours in a database, and
// commit before you answer `success`.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.ProxySelector;
import java.net.URI;
import java.net.URLDecoder;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Duration;
import java.time.Instant;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public final class Backend {
    private static final String SIDECAR = env("SIDECAR", "http://127.0.0.1:2088");
    private static final String MERCHANT = env("MERCHANT", "shop");
    private static final String FORM = "application/x-www-form-urlencoded";
    private static final String WEBHOOK_SECRET = env("WEBHOOK_SECRET", "").strip();
    // The sidecar is beside us: no proxy may come between.
    private static final HttpClient LOCAL =
            HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).proxy(ProxySelector.of(null)).build();
    private static final Map<String, Order> ORDERS = new ConcurrentHashMap<>();

    record Order(String order, String amount, String tradeNo, boolean paid) {
        String json() {
            String trade = tradeNo == null ? "null" : "\"" + tradeNo + "\"";
            return "{\"order\":\"%s\",\"amount\":\"%s\",\"trade_no\":%s,\"paid\":%s}"
                    .formatted(order, amount, trade, paid);
        }
    }

    /** A call that brought no verified answer; {@code outcome} says whether Alipay may have acted on it. */
    static final class Failed extends Exception {
        final String code;
        final String outcome;

        Failed(String code, String outcome) {
            super(code + " (" + outcome + ")");
            this.code = code;
            this.outcome = outcome;
        }
    }

    /** Alipay's own, verified no. */
    static final class Refused extends Exception {
        Refused(String code) {
            super(code);
        }
    }

    /** The order is known, with another amount. */
    static final class Conflict extends Exception {}

    /** A member of one of Alipay's nodes, which are flat, or null; use your JSON library in its place. */
    static String member(String node, String name) {
        var found = Pattern.compile("\"" + name + "\"\\s*:\\s*\"([^\"\\\\]+)\"").matcher(node);
        return found.find() ? found.group(1) : null;
    }

    /** Calls Alipay for the merchant: unsigned; what comes back is verified. */
    static String call(String method, String biz, Map<String, String> params) throws Failed, Refused {
        var request = HttpRequest.newBuilder(URI.create(SIDECAR + "/v2/" + method + "?" + encoded(params)))
                .header("Alipay-Merchant", MERCHANT)
                .header("Content-Type", "application/json")
                // Longer than the sidecar's own deadline (15 s): it knows better what became of a call.
                .timeout(Duration.ofSeconds(20))
                .POST(HttpRequest.BodyPublishers.ofString(biz))
                .build();
        HttpResponse<String> reply;
        try {
            reply = LOCAL.send(request, HttpResponse.BodyHandlers.ofString());
        } catch (IOException error) {
            throw new Failed("sidecar-unreachable", "unknown");
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw new Failed("interrupted", "unknown");
        }
        if (reply.statusCode() != 200) {
            var headers = reply.headers();
            throw new Failed(
                    headers.firstValue("Alipay-Sidecar-Error").orElse("http-" + reply.statusCode()),
                    headers.firstValue("Alipay-Sidecar-Outcome").orElse("unknown"));
        }
        String verified = reply.headers().firstValue("Alipay-Sidecar-Verified").orElse("");
        // `unsigned-error`: nobody knows who said it.
        if (!verified.equals("true")) {
            throw new Failed(verified, "unknown");
        }
        // Alipay leaves `code` out of some successes (alipay.system.oauth.token). 10003 is one, too: under
        // way, and not finished, which a notification or a query tells.
        String code = member(reply.body(), "code");
        if (code == null || code.equals("10000") || code.equals("10003")) {
            return reply.body();
        }
        String sub = member(reply.body(), "sub_code");
        String named = sub == null ? code : sub;
        // Alipay stumbled, and may have acted all the same.
        if (code.equals("20000") || named.endsWith(".SYSTEM_ERROR") || named.startsWith("isp.")) {
            throw new Failed(named, "unknown");
        }
        throw new Refused(named);
    }

    static String login(String code) throws Failed, Refused {
        var params = Map.of("grant_type", "authorization_code", "code", code);
        String token = call("alipay.system.oauth.token", "", params);
        String user = member(token, "user_id");
        user = user == null ? member(token, "open_id") : user;
        if (user == null) {
            throw new Failed("user-missing", "unknown");
        }
        return "{\"user\":\"%s\"}".formatted(user);
    }

    /** An amount in fen, 0 where it is none: Alipay says {@code 8.80} of what was ordered as {@code 8.8}. */
    static long fen(String amount) {
        var parts = Pattern.compile("([0-9]{1,9})(?:\\.([0-9]{1,2}))?").matcher(amount == null ? "" : amount);
        if (!parts.matches()) {
            return 0;
        }
        String decimals = parts.group(2) == null ? "" : parts.group(2);
        return Long.parseLong(parts.group(1) + (decimals + "00").substring(0, 2));
    }

    static String create(String order, String amount, String user) throws Conflict, Failed, Refused {
        String biz = ("{\"out_trade_no\":\"%s\",\"total_amount\":\"%s\",\"subject\":\"order %s\","
                        + "\"buyer_id\":\"%s\",\"product_code\":\"JSAPI_PAY\"}")
                .formatted(order, amount, order, user);
        // Known before it can be paid: the notification may be quicker than the reply.
        ORDERS.putIfAbsent(order, new Order(order, amount, null, false));
        if (fen(ORDERS.get(order).amount) != fen(amount)) {
            throw new Conflict();
        }
        String trade;
        try {
            trade = call("alipay.trade.create", biz, Map.of("notify_url", "/orders/" + order));
        } catch (Failed failed) {
            if (!failed.outcome.equals("unknown")) {
                throw failed;
            }
            trade = query(order);
        }
        // A reply may leave it out, as while a payment is under way; what is known stays. Without any, no
        // notification would ever be taken for this order's own.
        if (member(trade, "trade_no") == null && ORDERS.get(order).tradeNo == null) {
            trade = query(order);
            if (member(trade, "trade_no") == null) {
                throw new Failed("trade-no-missing", "unknown");
            }
        }
        String told = member(trade, "trade_no");
        return ORDERS.computeIfPresent(order, (name, known) ->
                new Order(name, known.amount, told == null ? known.tradeNo : told, known.paid)).json();
    }

    /** Asks for a trade whose making has an unknown outcome: bytes had left, so it may be there. */
    static String query(String order) throws Failed {
        // A failure is the query's, and not the making's; a trade that isn't there yet may still come to be.
        try {
            return call("alipay.trade.query", "{\"out_trade_no\":\"%s\"}".formatted(order), Map.of());
        } catch (Failed failed) {
            throw new Failed(failed.code, "unknown");
        } catch (Refused refused) {
            throw new Failed(refused.getMessage(), "unknown");
        }
    }

    /** Whether the sidecar sent this (Standard Webhooks): whoever reaches this port may claim to be it. */
    static boolean isFromSidecar(HttpExchange exchange, byte[] body) {
        var headers = exchange.getRequestHeaders();
        String sent = headers.getFirst("webhook-timestamp");
        String signature = headers.getFirst("webhook-signature");
        if (WEBHOOK_SECRET.isEmpty() || sent == null || !sent.matches("[0-9]{1,12}") || signature == null) {
            return false;
        }
        // More than five minutes off: somebody kept it, and sends it again.
        if (Math.abs(Instant.now().getEpochSecond() - Long.parseLong(sent)) > 300) {
            return false;
        }
        // What delivery.signing_secret means: base64 behind `whsec_`, else the text itself.
        byte[] key = WEBHOOK_SECRET.startsWith("whsec_")
                ? Base64.getDecoder().decode(WEBHOOK_SECRET.substring("whsec_".length()))
                : WEBHOOK_SECRET.getBytes(StandardCharsets.UTF_8);
        try {
            Mac mac = Mac.getInstance("HmacSHA256");
            mac.init(new SecretKeySpec(key, "HmacSHA256"));
            mac.update((headers.getFirst("webhook-id") + "." + sent + ".").getBytes(StandardCharsets.UTF_8));
            String expected = "v1," + Base64.getEncoder().encodeToString(mac.doFinal(body));
            return MessageDigest.isEqual(expected.getBytes(), signature.getBytes());
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException(error);
        }
    }

    /** Takes what Alipay told; the sidecar verified it. May come twice, so it only ever says “is so”. */
    static boolean event(String kind, Map<String, String> form) {
        boolean paid = List.of("TRADE_SUCCESS", "TRADE_FINISHED").contains(form.getOrDefault("trade_status", ""));
        if (!"trade_status_sync".equals(kind) || !paid) {
            return true;
        }
        Order order = ORDERS.get(form.getOrDefault("out_trade_no", ""));
        if (order == null || fen(order.amount) != fen(form.get("total_amount"))) {
            return false;
        }
        // Another merchant may have an order of this name. Before the reply told the trade, let it come again.
        if (!form.getOrDefault("trade_no", "").equals(order.tradeNo)) {
            return false;
        }
        ORDERS.put(order.order, new Order(order.order, order.amount, order.tradeNo, true));
        return true;
    }

    static void takeEvent(HttpExchange exchange) throws IOException {
        byte[] body = exchange.getRequestBody().readAllBytes();
        if (!isFromSidecar(exchange, body)) {
            send(exchange, 401, "text/plain", "not signed with WEBHOOK_SECRET");
            return;
        }
        // In the charset that Content-Type names; UTF-8 where calls are made in UTF-8, as here. What is no form
        // (an event of the sidecar's own, as JSON) is none of those that are acted upon.
        var headers = exchange.getRequestHeaders();
        boolean isForm = headers.getOrDefault("Content-Type", List.of("")).get(0).startsWith(FORM);
        var form = isForm ? decoded(new String(body, StandardCharsets.UTF_8)) : Map.<String, String>of();
        boolean taken = event(headers.getFirst("Alipay-Event-Type"), form);
        send(exchange, taken ? 200 : 500, "text/plain", taken ? "success" : "fail");
    }

    static void answer(HttpExchange exchange) throws IOException {
        var asked = decoded(exchange.getRequestURI().getRawQuery());
        String path = exchange.getRequestURI().getRawPath();
        // What goes into JSON by hand must not need escapes.
        boolean isOrder = path.matches("/orders/[A-Za-z0-9_-]{1,64}");
        String order = isOrder ? path.substring("/orders/".length()) : "";
        boolean isGet = exchange.getRequestMethod().equals("GET");
        boolean isPost = exchange.getRequestMethod().equals("POST");
        String json = "application/json";
        try {
            if (isPost && path.equals("/alipay/events")) {
                takeEvent(exchange);
            } else if (isGet && path.equals("/login")) {
                String code = asked.getOrDefault("code", "");
                send(exchange, code.isEmpty() ? 400 : 200, json, code.isEmpty() ? "{}" : login(code));
            } else if (isPost && isOrder) {
                String amount = asked.getOrDefault("amount", "");
                String user = asked.getOrDefault("user", "");
                boolean isPlain = fen(amount) > 0 && user.matches("[A-Za-z0-9_-]+");
                send(exchange, isPlain ? 200 : 400, json, isPlain ? create(order, amount, user) : "{}");
            } else {
                Order known = isGet ? ORDERS.get(order) : null;
                send(exchange, known == null ? 404 : 200, json, known == null ? "{}" : known.json());
            }
        } catch (Conflict conflict) {
            send(exchange, 409, json, "{\"error\":\"the order has another amount\"}");
        } catch (Refused refused) {
            send(exchange, 422, json, "{\"error\":\"%s\"}".formatted(refused.getMessage()));
        } catch (Failed failed) {
            send(exchange, 502, json,
                    "{\"error\":\"%s\",\"outcome\":\"%s\"}".formatted(failed.code, failed.outcome));
        }
    }

    static void send(HttpExchange exchange, int status, String kind, String body) throws IOException {
        byte[] bytes = body.getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("Content-Type", kind);
        exchange.sendResponseHeaders(status, bytes.length);
        exchange.getResponseBody().write(bytes);
        exchange.close();
    }

    static String encoded(Map<String, String> params) {
        return params.entrySet().stream()
                .map(p -> p.getKey() + "=" + URLEncoder.encode(p.getValue(), StandardCharsets.UTF_8))
                .collect(Collectors.joining("&"));
    }

    static Map<String, String> decoded(String form) {
        if (form == null || form.isEmpty()) {
            return Map.of();
        }
        return Arrays.stream(form.split("&")).map(pair -> pair.split("=", 2)).collect(Collectors.toMap(
                pair -> URLDecoder.decode(pair[0], StandardCharsets.UTF_8),
                pair -> pair.length < 2 ? "" : URLDecoder.decode(pair[1], StandardCharsets.UTF_8),
                (first, second) -> first));
    }

    static String env(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null || value.isEmpty() ? otherwise : value;
    }

    public static void main(String[] arguments) throws IOException {
        var address = new InetSocketAddress("127.0.0.1", Integer.parseInt(env("PORT", "3000")));
        var server = HttpServer.create(address, 0);
        server.createContext("/", Backend::answer);
        server.setExecutor(Executors.newCachedThreadPool());
        server.start();
    }
}
