// A plugin's backend behind alipay-sidecar, with the standard library alone.
//
// Routes and environment: ../README.md. Orders are kept in memory here; keep yours in a database, and
// commit before you answer `success`.
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	sidecar       = env("SIDECAR", "http://127.0.0.1:2088")
	merchant      = env("MERCHANT", "shop")
	webhookSecret = strings.TrimSpace(os.Getenv("WEBHOOK_SECRET"))
	// Longer than the sidecar's own deadline (15 s): it knows better what became of a call. Without the
	// environment's proxy: the sidecar is beside us.
	local = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{Proxy: nil}}

	lock   sync.Mutex
	orders = map[string]*Order{}
)

// Order is what we know of one.
type Order struct {
	Order   string  `json:"order"`
	Amount  string  `json:"amount"`
	TradeNo *string `json:"trade_no"`
	Paid    bool    `json:"paid"`
}

// Failed is a call that brought no verified answer; Outcome says whether Alipay may have acted on it.
type Failed struct{ Code, Outcome string }

func (f *Failed) Error() string { return f.Code + " (" + f.Outcome + ")" }

// Refused is Alipay's own, verified no.
type Refused struct{ Code string }

func (r *Refused) Error() string { return r.Code }

// errAmount says that the order is known, with another amount.
var errAmount = errors.New("the order has another amount")

// Node is what we read of Alipay's answers.
type Node struct {
	Code    string `json:"code"`
	SubCode string `json:"sub_code"`
	TradeNo string `json:"trade_no"`
	UserID  string `json:"user_id"`
	OpenID  string `json:"open_id"`
}

// call asks Alipay for the merchant: unsigned; what comes back is verified.
func call(method string, biz map[string]string, params url.Values) (*Node, error) {
	var body []byte
	if biz != nil {
		body, _ = json.Marshal(biz)
	}
	address := sidecar + "/v2/" + method + "?" + params.Encode()
	request, err := http.NewRequest(http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Alipay-Merchant", merchant)
	request.Header.Set("Content-Type", "application/json")
	reply, err := local.Do(request)
	if err != nil {
		return nil, &Failed{"sidecar-unreachable", "unknown"}
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		failed := &Failed{reply.Header.Get("Alipay-Sidecar-Error"), reply.Header.Get("Alipay-Sidecar-Outcome")}
		if failed.Outcome == "" {
			failed.Outcome = "unknown"
		}
		return nil, failed
	}
	node := &Node{}
	if err := json.NewDecoder(reply.Body).Decode(node); err != nil {
		return nil, &Failed{"reply-lost", "unknown"}
	}
	// `unsigned-error`: nobody knows who said it.
	if verified := reply.Header.Get("Alipay-Sidecar-Verified"); verified != "true" {
		return nil, &Failed{verified, "unknown"}
	}
	// Alipay leaves `code` out of some successes (alipay.system.oauth.token). 10003 is one, too: under way,
	// and not finished, which a notification or a query tells.
	if node.Code == "" || node.Code == "10000" || node.Code == "10003" {
		return node, nil
	}
	named := node.SubCode
	if named == "" {
		named = node.Code
	}
	// Alipay stumbled, and may have acted all the same.
	if node.Code == "20000" || strings.HasSuffix(named, ".SYSTEM_ERROR") || strings.HasPrefix(named, "isp.") {
		return nil, &Failed{named, "unknown"}
	}
	return nil, &Refused{named}
}

func login(code string) (any, error) {
	params := url.Values{"grant_type": {"authorization_code"}, "code": {code}}
	token, err := call("alipay.system.oauth.token", nil, params)
	if err != nil {
		return nil, err
	}
	if token.UserID == "" {
		token.UserID = token.OpenID
	}
	if token.UserID == "" {
		return nil, &Failed{"user-missing", "unknown"}
	}
	return map[string]string{"user": token.UserID}, nil
}

var amountForm = regexp.MustCompile(`^([0-9]{1,9})(?:\.([0-9]{1,2}))?$`)

// fen is an amount in fen, 0 where it is none: Alipay says `8.80` of what was ordered as `8.8`.
func fen(amount string) int64 {
	parts := amountForm.FindStringSubmatch(amount)
	if parts == nil {
		return 0
	}
	whole, _ := strconv.ParseInt(parts[1]+(parts[2] + "00")[:2], 10, 64)
	return whole
}

func create(order, amount, user string) (any, error) {
	biz := map[string]string{
		"out_trade_no": order,
		"total_amount": amount,
		"subject":      "order " + order,
		"buyer_id":     user,
		"product_code": "JSAPI_PAY",
	}
	// Known before it can be paid: the notification may be quicker than the reply.
	lock.Lock()
	if orders[order] == nil {
		orders[order] = &Order{Order: order, Amount: amount}
	}
	known := orders[order]
	isNumbered := known.TradeNo != nil
	lock.Unlock()
	if fen(known.Amount) != fen(amount) {
		return nil, errAmount
	}
	trade, err := call("alipay.trade.create", biz, url.Values{"notify_url": {"/orders/" + url.PathEscape(order)}})
	var failed *Failed
	if errors.As(err, &failed) && failed.Outcome == "unknown" {
		trade, err = query(order)
	}
	// A reply may leave it out, as while a payment is under way; what is known stays. Without any, no
	// notification would ever be taken for this order's own.
	if err == nil && trade.TradeNo == "" && !isNumbered {
		trade, err = query(order)
		if err == nil && trade.TradeNo == "" {
			err = &Failed{"trade-no-missing", "unknown"}
		}
	}
	if err != nil {
		return nil, err
	}
	lock.Lock()
	defer lock.Unlock()
	if trade.TradeNo != "" {
		known.TradeNo = &trade.TradeNo
	}
	return *known, nil
}

// query asks for a trade whose making has an unknown outcome: bytes had left, so it may be there.
func query(order string) (*Node, error) {
	trade, err := call("alipay.trade.query", map[string]string{"out_trade_no": order}, nil)
	var failed *Failed
	var refused *Refused
	// Of the query, and not of the making; a trade that isn't there yet may still come to be.
	switch {
	case errors.As(err, &failed):
		err = &Failed{failed.Code, "unknown"}
	case errors.As(err, &refused):
		err = &Failed{refused.Code, "unknown"}
	}
	return trade, err
}

// isFromSidecar says whether the sidecar sent this (Standard Webhooks): whoever reaches this port may claim
// to be it.
func isFromSidecar(header http.Header, body []byte) bool {
	sent := header.Get("Webhook-Timestamp")
	seconds, err := strconv.ParseInt(sent, 10, 64)
	// More than five minutes off: somebody kept it, and sends it again.
	if err != nil || seconds < time.Now().Unix()-300 || seconds > time.Now().Unix()+300 {
		return false
	}
	// What delivery.signing_secret means: base64 behind `whsec_`, else the text itself.
	key := []byte(webhookSecret)
	if strings.HasPrefix(webhookSecret, "whsec_") {
		encoded := strings.TrimRight(strings.TrimPrefix(webhookSecret, "whsec_"), "=")
		key, err = base64.RawStdEncoding.DecodeString(encoded)
	}
	if err != nil || len(key) == 0 {
		return false
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.", header.Get("Webhook-Id"), sent)
	mac.Write(body)
	expected := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return hmac.Equal([]byte(header.Get("Webhook-Signature")), []byte(expected))
}

// event takes what Alipay told; the sidecar verified it. It may come twice, so it only ever says “is so”.
func event(kind string, form url.Values) bool {
	status := form.Get("trade_status")
	if kind != "trade_status_sync" || status != "TRADE_SUCCESS" && status != "TRADE_FINISHED" {
		return true
	}
	lock.Lock()
	defer lock.Unlock()
	order := orders[form.Get("out_trade_no")]
	if order == nil || fen(order.Amount) != fen(form.Get("total_amount")) {
		return false
	}
	// Another merchant may have an order of this name. Before the reply told the trade, let it come again.
	if order.TradeNo == nil || form.Get("trade_no") != *order.TradeNo {
		return false
	}
	order.Paid = true
	return true
}

func takeEvent(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		write(w, http.StatusNotFound, map[string]string{})
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || !isFromSidecar(r.Header, body) {
		http.Error(w, "not signed with WEBHOOK_SECRET", http.StatusUnauthorized)
		return
	}
	// In the charset that Content-Type names; UTF-8 where calls are made in UTF-8, as here. What is no form
	// (an event of the sidecar's own, as JSON) is none of those that are acted upon.
	form, _ := url.ParseQuery(string(body))
	if !event(r.Header.Get("Alipay-Event-Type"), form) {
		http.Error(w, "fail", http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, "success")
}

func answerLogin(w http.ResponseWriter, r *http.Request) {
	code := r.URL.Query().Get("code")
	switch {
	case r.Method != http.MethodGet:
		write(w, http.StatusNotFound, map[string]string{})
	case code == "":
		write(w, http.StatusBadRequest, map[string]string{"error": "code is missing"})
	default:
		value, err := login(code)
		answer(w, value, err)
	}
}

// orderForm is an order's name, of what needs no escapes.
var orderForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func answerOrder(w http.ResponseWriter, r *http.Request) {
	name, query := strings.TrimPrefix(r.URL.EscapedPath(), "/orders/"), r.URL.Query()
	switch {
	case !orderForm.MatchString(name) || r.Method != http.MethodGet && r.Method != http.MethodPost:
		write(w, http.StatusNotFound, map[string]string{})
	case r.Method == http.MethodGet:
		answerKnown(w, name)
	case fen(query.Get("amount")) == 0:
		write(w, http.StatusBadRequest, map[string]string{"error": "amount is missing, or none"})
	case query.Get("user") == "":
		write(w, http.StatusBadRequest, map[string]string{"error": "user is missing"})
	default:
		value, err := create(name, query.Get("amount"), query.Get("user"))
		answer(w, value, err)
	}
}

func answerKnown(w http.ResponseWriter, name string) {
	lock.Lock()
	order := orders[name]
	var copied Order
	if order != nil {
		copied = *order
	}
	lock.Unlock()
	if order == nil {
		write(w, http.StatusNotFound, map[string]string{})
		return
	}
	answer(w, copied, nil)
}

func answer(w http.ResponseWriter, value any, err error) {
	var failed *Failed
	var refused *Refused
	switch {
	case err == nil:
		write(w, http.StatusOK, value)
	case errors.Is(err, errAmount):
		write(w, http.StatusConflict, map[string]string{"error": err.Error()})
	case errors.As(err, &failed):
		write(w, http.StatusBadGateway, map[string]string{"error": failed.Code, "outcome": failed.Outcome})
	case errors.As(err, &refused):
		write(w, http.StatusUnprocessableEntity, map[string]string{"error": refused.Code})
	default:
		write(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
	}
}

func write(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func main() {
	http.HandleFunc("/alipay/events", takeEvent)
	http.HandleFunc("/login", answerLogin)
	http.HandleFunc("/orders/", answerOrder)
	log.Fatal(http.ListenAndServe("127.0.0.1:"+env("PORT", "3000"), nil))
}
