// A plugin's backend behind alipay-sidecar, with the standard library alone.
//
// Routes and environment: ../README.md. Orders are kept in memory here; keep yours in a database, and
// commit before you answer `success`.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

var (
	sidecar  = env("SIDECAR", "http://127.0.0.1:2088")
	merchant = env("MERCHANT", "shop")
	// Longer than the sidecar's own deadline (15 s): it knows better what became of a call. Without the
	// environment's proxy: the sidecar is beside us.
	local = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{Proxy: nil}}

	lock   sync.Mutex
	orders = map[string]*Order{}
)

// Order is what we know of one.
type Order struct {
	Order   string `json:"order"`
	Amount  string `json:"amount"`
	TradeNo string `json:"trade_no"`
	Paid    bool   `json:"paid"`
}

// Failed is a call that brought no verified answer; Outcome says whether Alipay may have acted on it.
type Failed struct{ Code, Outcome string }

func (f *Failed) Error() string { return f.Code + " (" + f.Outcome + ")" }

// Refused is Alipay's own, verified no.
type Refused struct{ Code string }

func (r *Refused) Error() string { return r.Code }

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
		return nil, &Failed{reply.Header.Get("Alipay-Sidecar-Error"), reply.Header.Get("Alipay-Sidecar-Outcome")}
	}
	node := &Node{}
	if err := json.NewDecoder(reply.Body).Decode(node); err != nil {
		return nil, &Failed{"reply-lost", "unknown"}
	}
	// Alipay leaves `code` out of some successes (alipay.system.oauth.token).
	if node.Code != "" && node.Code != "10000" {
		if node.SubCode == "" {
			node.SubCode = node.Code
		}
		return nil, &Refused{node.SubCode}
	}
	return node, nil
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
	return map[string]string{"user": token.UserID}, nil
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
	lock.Unlock()
	trade, err := call("alipay.trade.create", biz, url.Values{"notify_url": {"/orders/" + url.PathEscape(order)}})
	var failed *Failed
	if errors.As(err, &failed) && failed.Outcome == "unknown" {
		// Bytes had left, so the trade may be there: ask, and never assume.
		trade, err = call("alipay.trade.query", map[string]string{"out_trade_no": order}, nil)
	}
	if err != nil {
		return nil, err
	}
	lock.Lock()
	defer lock.Unlock()
	orders[order].TradeNo = trade.TradeNo
	return *orders[order], nil
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
	if order == nil || order.Amount != form.Get("total_amount") {
		return false
	}
	order.Paid, order.TradeNo = true, form.Get("trade_no")
	return true
}

func takeEvent(w http.ResponseWriter, r *http.Request) {
	// In the charset that Content-Type names; UTF-8 where calls are made in UTF-8, as here.
	if r.ParseForm() != nil || !event(r.Header.Get("Alipay-Event-Type"), r.PostForm) {
		http.Error(w, "fail", http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, "success")
}

func answerLogin(w http.ResponseWriter, r *http.Request) {
	value, err := login(r.URL.Query().Get("code"))
	answer(w, value, err)
}

func answerOrder(w http.ResponseWriter, r *http.Request) {
	name, query := strings.TrimPrefix(r.URL.Path, "/orders/"), r.URL.Query()
	if r.Method == http.MethodPost {
		value, err := create(name, query.Get("amount"), query.Get("user"))
		answer(w, value, err)
		return
	}
	lock.Lock()
	order, known := orders[name]
	var copied Order
	if known {
		copied = *order
	}
	lock.Unlock()
	if !known {
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
