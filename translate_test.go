package main

// translate_test.go plays both sides of the translator. A script has one message a line:
//
//	host>    the client writes it          server>  the server sends it
//	up:      it must go to the server      host<    it must go to the client
//
// A line ends the event before it: what was not expected by then fails the test. Objects are compared as JSON; $meta
// stands for the _meta of a request, and "start CAPABILITIES OFFERS" for a handshake of such a client and server.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	testMeta   = `{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":%s,"io.modelcontextprotocol/clientInfo":{"name":"old","version":"1"}}`
	allCan     = `{"roots":{},"sampling":{},"elicitation":{"form":{},"url":{}}}`
	allOffers  = `{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"logging":{},"completions":{}}`
	startAll   = "start " + allCan + " " + allOffers + "\n"
	startPlain = `start {} {"tools":{},"resources":{"subscribe":true}}` + "\n"
)

var translations = []struct{ name, script string }{
	// The client's side.
	{"initialize with all capabilities", `
host> {"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{"roots":{"listChanged":true},"sampling":{"tools":{}},"elicitation":{},"experimental":{"x":1.0},"extensions":{"a/b":{},"io.modelcontextprotocol/tasks":{}},"tasks":{"list":{}}},"clientInfo":{"name":"old","version":"1"}}}
up: {"jsonrpc":"2.0","id":"x-1","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{},"sampling":{"tools":{}},"elicitation":{},"experimental":{"x":1.0},"extensions":{"a/b":{}}},"io.modelcontextprotocol/clientInfo":{"name":"old","version":"1"}}}}
server> {"jsonrpc":"2.0","id":"x-1","result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true},"experimental":{"y":{}},"extensions":{"io.modelcontextprotocol/tasks":{},"c/d":{"e":1}},"tasks":{},"z":{}},"instructions":"be kind","ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"new","version":"2","title":"T"}}}}
host< {"jsonrpc":"2.0","id":"i","result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"experimental":{"y":{}},"extensions":{"c/d":{"e":1}},"z":{}},"serverInfo":{"name":"new","version":"2","title":"T"},"instructions":"be kind"}}`},
	{"initialize of an unknown version, server info at the top", `
host> {"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2031-01-01"}}
up: {"jsonrpc":"2.0","id":"x-1","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}
server> {"jsonrpc":"2.0","id":"x-1","result":{"serverInfo":{"name":"new","version":"2"}}}
host< {"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"new","version":"2"}}}`},
	{"initialize at a server that says nothing of itself", `
host> {"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":[],"clientInfo":null}}
up: {"jsonrpc":"2.0","id":"x-1","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":null}}}
server> {"jsonrpc":"2.0","id":"x-1","result":{"capabilities":7,"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"half"}}}}
host< {"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2024-11-05","capabilities":{},"serverInfo":{"name":"unknown","version":"unknown"}}}`},
	{"initialize without a version", `
host> {"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}
host< {"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"initialize says no protocolVersion"}}`},
	{"initialize twice at once", `
host> {"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2024-11-05"}}
up: {"jsonrpc":"2.0","id":"x-1","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}
host> {"jsonrpc":"2.0","id":2,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}
up: {"jsonrpc":"2.0","id":"x-2","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}
host> {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}
server> {"jsonrpc":"2.0","id":"x-1","result":{}}
host< {"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2024-11-05","capabilities":{},"serverInfo":{"name":"unknown","version":"unknown"}}}
server> {"jsonrpc":"2.0","id":"x-2","result":{}}
host< {"jsonrpc":"2.0","id":2,"result":{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"unknown","version":"unknown"}}}`},
	{"initialize refused", `
host> {"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2024-11-05"}}
up: {"jsonrpc":"2.0","id":"x-1","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}
server> {"jsonrpc":"2.0","id":"x-1","error":{"code":-32603,"message":"no"}}
host< {"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"no"}}`},
	{"initialized opens one stream for the lists that were promised", startAll + `
host> {"jsonrpc":"2.0","method":"notifications/initialized"}
up: {"jsonrpc":"2.0","id":"x-2","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true},"_meta":$meta}}
server> {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true},"_meta":{"io.modelcontextprotocol/subscriptionId":"x-2"}}}
server> {"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"x-2","k":1}}}
host< {"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"k":1}}}`},
	{"initialized where nothing was promised", startPlain + `
host> {"jsonrpc":"2.0","method":"notifications/initialized"}`},
	{"ping", startPlain + `
host> {"jsonrpc":"2.0","id":9007199254740993,"method":"ping"}
host< {"jsonrpc":"2.0","id":9007199254740993,"result":{}}`},
	{"log level", startAll + `
host> {"jsonrpc":"2.0","id":2,"method":"logging/setLevel","params":{"level":"warning"}}
host< {"jsonrpc":"2.0","id":2,"result":{}}
host> {"jsonrpc":"2.0","id":3,"method":"tools/list"}
up: {"jsonrpc":"2.0","id":3,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":` + allCan + `,"io.modelcontextprotocol/clientInfo":{"name":"old","version":"1"},"io.modelcontextprotocol/logLevel":"warning"}}}
server> {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":"x"}}
host< {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":"x"}}`},
	{"a log level that there is not", startAll + `
host> {"jsonrpc":"2.0","id":2,"method":"logging/setLevel","params":{"level":"loud"}}
host< {"jsonrpc":"2.0","id":2,"error":{"code":-32602,"message":"no such log level"}}`},
	{"log level of a server that does not log", startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"logging/setLevel","params":{"level":"info"}}
host< {"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"the server does not log to its clients"}}`},
	{"a call", startAll + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","arguments":{"a":1.50},"task":{"ttl":1},"_meta":{"progressToken":7,"traceparent":"q","io.modelcontextprotocol/protocolVersion":"1"}}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","arguments":{"a":1.50},"_meta":{"progressToken":7,"traceparent":"q","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":` + allCan + `,"io.modelcontextprotocol/clientInfo":{"name":"old","version":"1"}}}}
server> {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}
host< {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":7,"progress":1}}
server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"complete","content":[],"_meta":{"k":1}}}
host< {"jsonrpc":"2.0","id":2,"result":{"content":[],"_meta":{"k":1}}}
server> {"jsonrpc":"2.0","id":"before","result":{"content":["asked before there was a translator"]}}
host< {"jsonrpc":"2.0","id":"before","result":{"content":["asked before there was a translator"]}}`},
	{"lists and the rest", startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"prompts/list","params":{"cursor":"c"}}
up: {"jsonrpc":"2.0","id":2,"method":"prompts/list","params":{"cursor":"c","_meta":$meta}}
host> {"jsonrpc":"2.0","id":3,"method":"completion/complete","params":{"ref":{},"_meta":null}}
up: {"jsonrpc":"2.0","id":3,"method":"completion/complete","params":{"ref":{},"_meta":$meta}}
host> {"jsonrpc":"2.0","id":4,"method":"vendor/thing","params":null}
up: {"jsonrpc":"2.0","id":4,"method":"vendor/thing","params":{"_meta":$meta}}
host> {"jsonrpc":"2.0","method":"notifications/vendor"}
up: {"jsonrpc":"2.0","method":"notifications/vendor"}
server> {"jsonrpc":"2.0","id":3,"result":{"resultType":"complete","completion":{"values":[]}}}
host< {"jsonrpc":"2.0","id":3,"result":{"completion":{"values":[]}}}`},
	{"params that are no object", startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/list","params":[1]}
host< {"jsonrpc":"2.0","id":2,"error":{"code":-32602,"message":"params is not an object"}}`},
	{"tasks", startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"tasks/get","params":{"taskId":"1"}}
host< {"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"the server has no tasks as this client's protocol version knows them"}}`},
	{"notifications that the era has not", startAll + `
host> {"jsonrpc":"2.0","method":"notifications/roots/list_changed"}
host> {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}
host> {"jsonrpc":"2.0","method":"notifications/tasks/status","params":{}}
host> {"jsonrpc":"2.0","id":"stranger","result":{}}`},
	{"cancel", startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":$meta}}
host> {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2,"reason":"r"}}
up: {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2,"reason":"r"}}
host> {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}
host> {"jsonrpc":"2.0","method":"notifications/cancelled"}`},

	// Subscriptions.
	{"subscribe and unsubscribe", startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"a:1"}}
up: {"jsonrpc":"2.0","id":"x-2","method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["a:1"]},"_meta":$meta}}
server> {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"resourceSubscriptions":["a:1"]},"_meta":{"io.modelcontextprotocol/subscriptionId":"x-2"}}}
host< {"jsonrpc":"2.0","id":2,"result":{}}
host> {"jsonrpc":"2.0","id":3,"method":"resources/subscribe","params":{"uri":"a:1"}}
host< {"jsonrpc":"2.0","id":3,"result":{}}
host> {"jsonrpc":"2.0","id":4,"method":"resources/subscribe","params":{"uri":"b:2"}}
up: {"jsonrpc":"2.0","id":"x-3","method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["a:1","b:2"]},"_meta":$meta}}
server> {"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:1","_meta":{"io.modelcontextprotocol/subscriptionId":"x-2"}}}
host< {"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:1","_meta":{}}}
server> {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"resourceSubscriptions":["a:1"]},"_meta":{"io.modelcontextprotocol/subscriptionId":"x-3"}}}
up: {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x-2"}}
host< {"jsonrpc":"2.0","id":4,"error":{"code":-32602,"message":"the server does not agree to tell of changes of this resource"}}
host> {"jsonrpc":"2.0","id":5,"method":"resources/unsubscribe","params":{"uri":"a:1"}}
host< {"jsonrpc":"2.0","id":5,"result":{}}
up: {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x-3"}}
host> {"jsonrpc":"2.0","id":6,"method":"resources/unsubscribe","params":{"uri":"a:1"}}
host< {"jsonrpc":"2.0","id":6,"result":{}}`},
	{"subscribe while subscribing", startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"a:1"}}
up: {"jsonrpc":"2.0","id":"x-2","method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["a:1"]},"_meta":$meta}}
host> {"jsonrpc":"2.0","id":3,"method":"resources/subscribe","params":{"uri":"b:2"}}
up: {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x-2"}}
up: {"jsonrpc":"2.0","id":"x-3","method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["a:1","b:2"]},"_meta":$meta}}
server> {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"resourceSubscriptions":["a:1"]},"_meta":{"io.modelcontextprotocol/subscriptionId":"x-2"}}}
host> {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}
server> {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"resourceSubscriptions":["a:1","b:2"]},"_meta":{"io.modelcontextprotocol/subscriptionId":"x-3"}}}
host< {"jsonrpc":"2.0","id":3,"result":{}}`},
	{"subscribe refused", startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"a:1"}}
up: {"jsonrpc":"2.0","id":"x-2","method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["a:1"]},"_meta":$meta}}
server> {"jsonrpc":"2.0","id":"x-2","error":{"code":-32603,"message":"no"}}
host< {"jsonrpc":"2.0","id":2,"error":{"code":-32602,"message":"the server does not agree to tell of changes of this resource"}}`},
	{"subscribe without a uri", startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":5}}
host< {"jsonrpc":"2.0","id":2,"error":{"code":-32602,"message":"uri is not a string"}}`},
	{"subscribe where it is not offered", `start {} {"resources":{}}
host> {"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"a:1"}}
host< {"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"the server offers no subscriptions to resources"}}`},
	{"unsubscribe while subscribing", startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"a:1"}}
up: {"jsonrpc":"2.0","id":"x-2","method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["a:1"]},"_meta":$meta}}
host> {"jsonrpc":"2.0","id":3,"method":"resources/unsubscribe","params":{"uri":"a:1"}}
up: {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x-2"}}
host< {"jsonrpc":"2.0","id":3,"result":{}}
host< {"jsonrpc":"2.0","id":2,"error":{"code":-32602,"message":"the server does not agree to tell of changes of this resource"}}`},
	{"the server ends the stream, and begins another", `start {} {"tools":{"listChanged":true},"resources":{"subscribe":true}}
host> {"jsonrpc":"2.0","method":"notifications/initialized"}
up: {"jsonrpc":"2.0","id":"x-2","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},"_meta":$meta}}
server> {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true},"_meta":{"io.modelcontextprotocol/subscriptionId":"x-2"}}}
host> {"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"a:\"1"}}
up: {"jsonrpc":"2.0","id":"x-3","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a:\"1"]},"_meta":$meta}}
server> {"jsonrpc":"2.0","id":"x-2","result":{"resultType":"complete"}}
up: {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x-3"}}
up: {"jsonrpc":"2.0","id":"x-4","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a:\"1"]},"_meta":$meta}}
server> {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a:\"1"]},"_meta":{"io.modelcontextprotocol/subscriptionId":"x-4"}}}
host< {"jsonrpc":"2.0","id":2,"result":{}}
host< {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}
host< {"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:\"1"}}`},
	{"the server ends the stream", `start {} {"prompts":{"listChanged":true}}
host> {"jsonrpc":"2.0","method":"notifications/initialized"}
up: {"jsonrpc":"2.0","id":"x-2","method":"subscriptions/listen","params":{"notifications":{"promptsListChanged":true},"_meta":$meta}}
server> {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{},"_meta":{"io.modelcontextprotocol/subscriptionId":"x-2"}}}
server> {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x-2"}}
server> {"jsonrpc":"2.0","id":"x-2","result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":"x-2"}}}
up: {"jsonrpc":"2.0","id":"x-3","method":"subscriptions/listen","params":{"notifications":{"promptsListChanged":true},"_meta":$meta}}
server> {"jsonrpc":"2.0","id":"x-3","error":{"code":-32601,"message":"no more"}}
host< {"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}`},

	// Answers of the server.
	{"forms that old clients reject", startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"complete","content":[1],"structuredContent":[1,2]}}
host< {"jsonrpc":"2.0","id":2,"result":{"content":[1]}}
host> {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":3,"result":{"structuredContent":{"a":1},"content":[1]}}
host< {"jsonrpc":"2.0","id":3,"result":{"structuredContent":{"a":1},"content":[1]}}
host> {"jsonrpc":"2.0","id":4,"method":"tools/list"}
up: {"jsonrpc":"2.0","id":4,"method":"tools/list","params":{"_meta":$meta}}
server> {"jsonrpc":"2.0","id":4,"result":{"tools":[{"name":"a","outputSchema":{"type":"object"}},{"name":"b","outputSchema":{"type":"array"},"x":1},{"name":"c"},{"outputSchema":true,"name":"d"}],"nextCursor":"n","ttlMs":5,"resultType":"complete"}}
host< {"jsonrpc":"2.0","id":4,"result":{"tools":[{"name":"a","outputSchema":{"type":"object"}},{"name":"b","x":1},{"name":"c"},{"name":"d"}],"nextCursor":"n","ttlMs":5}}`},
	{"results of other types", startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"task","taskId":"1"}}
host< -31007 2 the server made a task of the request, which this client's protocol version cannot follow
host> {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":3,"result":{"resultType":"later"}}
host< -32603 3 the server's answer is of a type that is not known here: "later"
host> {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":4,"result":{"resultType":null}}
host< -32603 4 the server's answer is of a type that is not known here: null`},
	{"errors of the server", startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"a:1"}}
up: {"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"a:1","_meta":$meta}}
server> {"jsonrpc":"2.0","id":2,"error":{"code":-32602,"message":"none","data":{"uri":"a:1"}}}
host< {"jsonrpc":"2.0","id":2,"error":{"code":-32002,"message":"none","data":{"uri":"a:1"}}}
host> {"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"a:1"}}
up: {"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"a:1","_meta":$meta}}
server> {"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"bad"}}
host< {"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"bad"}}
host> {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":4,"error":{"code":-32021,"message":"needs sampling","data":{"requiredCapabilities":{"sampling":{}}}}}
host< {"jsonrpc":"2.0","id":4,"error":{"code":-32021,"message":"needs sampling","data":{"requiredCapabilities":{"sampling":{}}}}}`},
	{"an error that answers nothing", startAll + `
server> {"jsonrpc":"2.0","error":{"code":1,"message":"m"}}
host< {"jsonrpc":"2.0","error":{"code":1,"message":"m"}}`},
	{"requests of the server", startAll + `
server> {"jsonrpc":"2.0","id":1,"method":"roots/list"}`},

	// Input that the server needs.
	{"three questions in two rounds", startAll + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":{"progressToken":1}}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":{"progressToken":1,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":` + allCan + `,"io.modelcontextprotocol/clientInfo":{"name":"old","version":"1"}}}}
server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","requestState":"\u0041/b\\","inputRequests":{"who\"":{"method":"elicitation/create","params":{"mode":"form","message":"m","requestedSchema":{"type":"object"}}},"r":{"method":"roots/list"},"s":{"method":"sampling/createMessage","params":{"messages":[],"maxTokens":1.0}}}}}
host< {"jsonrpc":"2.0","id":"x-2","method":"elicitation/create","params":{"mode":"form","message":"m","requestedSchema":{"type":"object"}}}
host< {"jsonrpc":"2.0","id":"x-3","method":"roots/list","params":{}}
host< {"jsonrpc":"2.0","id":"x-4","method":"sampling/createMessage","params":{"messages":[],"maxTokens":1.0}}
host> {"jsonrpc":"2.0","id":"x-4","result":{"role":"assistant","content":{"type":"text","text":"hi"},"model":"m"}}
host> {"jsonrpc":"2.0","id":"x-2","result":{"action":"accept","content":{"n":1.0}}}
host> {"jsonrpc":"2.0","id":"x-3","result":{"roots":[]}}
up: {"jsonrpc":"2.0","id":"x-5","method":"tools/call","params":{"name":"t","_meta":{"progressToken":1,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":` + allCan + `,"io.modelcontextprotocol/clientInfo":{"name":"old","version":"1"}},"requestState":"\u0041/b\\","inputResponses":{"s":{"role":"assistant","content":{"type":"text","text":"hi"},"model":"m"},"who\"":{"action":"accept","content":{"n":1.0}},"r":{"roots":[]}}}}
server> {"jsonrpc":"2.0","id":"x-5","result":{"resultType":"input_required","inputRequests":{"w":{"method":"elicitation/create","params":{"message":"again"}}}}}
host< {"jsonrpc":"2.0","id":"x-6","method":"elicitation/create","params":{"message":"again"}}
host> {"jsonrpc":"2.0","id":"x-6","error":{"code":-1,"message":"will not"}}
up: {"jsonrpc":"2.0","id":"x-7","method":"tools/call","params":{"name":"t","_meta":{"progressToken":1,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":` + allCan + `,"io.modelcontextprotocol/clientInfo":{"name":"old","version":"1"}},"inputResponses":{"w":{"action":"cancel"}}}}
server> {"jsonrpc":"2.0","id":"x-7","result":{"resultType":"complete","content":[]}}
host< {"jsonrpc":"2.0","id":2,"result":{"content":[]}}`},
	{"state only", startPlain + `
host> {"jsonrpc":"2.0","id":"p","method":"prompts/get","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":"p","method":"prompts/get","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":"p","result":{"resultType":"input_required","requestState":"s"}}
up: {"jsonrpc":"2.0","id":"x-2","method":"prompts/get","params":{"name":"t","_meta":$meta,"requestState":"s"}}
server> {"jsonrpc":"2.0","id":"x-2","error":{"code":-32603,"message":"no"}}
host< {"jsonrpc":"2.0","id":"p","error":{"code":-32603,"message":"no"}}`},
	{"an elicitation by link", startAll + `
host> {"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"u:"}}
up: {"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"u:","_meta":$meta}}
server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","inputRequests":{"w":{"method":"elicitation/create","params":{"mode":"url","message":"m","url":"https://a"}}}}}
host< {"jsonrpc":"2.0","id":"x-2","method":"elicitation/create","params":{"mode":"url","message":"m","url":"https://a","elicitationId":"x-2"}}
host> {"jsonrpc":"2.0","id":"x-2","result":{"action":"accept"}}
up: {"jsonrpc":"2.0","id":"x-3","method":"resources/read","params":{"uri":"u:","_meta":$meta,"inputResponses":{"w":{"action":"accept"}}}}`},
	{"the client cancels between rounds", startAll + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","inputRequests":{"w":{"method":"roots/list"}}}}
host< {"jsonrpc":"2.0","id":"x-2","method":"roots/list","params":{}}
host> {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}
host< {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x-2"}}
host> {"jsonrpc":"2.0","id":"x-2","result":{"roots":[]}}`},
	{"the client cancels a later round", startAll + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","requestState":""}}
up: {"jsonrpc":"2.0","id":"x-2","method":"tools/call","params":{"name":"t","_meta":$meta,"requestState":""}}
host> {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2,"reason":"r"}}
up: {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x-2","reason":"r"}}`},
	{"the client cannot say", startAll + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"sampling/createMessage"},"b":{"method":"roots/list"}}}}
host< {"jsonrpc":"2.0","id":"x-2","method":"sampling/createMessage","params":{}}
host< {"jsonrpc":"2.0","id":"x-3","method":"roots/list","params":{}}
host> {"jsonrpc":"2.0","id":"x-2","error":{"code":-1,"message":"user says no"}}
host< {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x-3"}}
host< -31007 2 the server needs sampling/createMessage, and the client's answer to that is an error or not valid`},
	{"the client's answer is malformed", startAll + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create"}}}}
host< {"jsonrpc":"2.0","id":"x-2","method":"elicitation/create","params":{}}
host> {"jsonrpc":"2.0","id":"x-2","result":"yes"}
host< -31007 2 the server needs elicitation/create, and the client's answer to that is an error or not valid`},
	{"questions that the client has not declared", `start {"elicitation":{}} {}
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create"},"b":{"method":"roots/list"}}}}
host< -31007 2 the server asks the client for what it has not declared: roots/list
host> {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":3,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{"mode":"url"}}}}}
host< -31007 3 the server asks the client for what it has not declared: elicitation/create
host> {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":4,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"tools/call"}}}}
host< -31007 4 the server asks the client for what it has not declared: tools/call`},
	{"questions that cannot be", startAll + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/list"}
up: {"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"_meta":$meta}}
server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","requestState":"s"}}
host< -31007 2 the server asks for input to a request for which its protocol version does not allow it
host> {"jsonrpc":"2.0","id":3,"method":"tools/call"}
up: {"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"_meta":$meta}}
server> {"jsonrpc":"2.0","id":3,"result":{"resultType":"input_required"}}
host< -31007 3 the server asks for input in a form that is not valid
host> {"jsonrpc":"2.0","id":4,"method":"tools/call"}
up: {"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"_meta":$meta}}
server> {"jsonrpc":"2.0","id":4,"result":{"resultType":"input_required","requestState":5,"inputRequests":{}}}
host< -31007 4 the server asks for input in a form that is not valid
host> {"jsonrpc":"2.0","id":5,"method":"tools/call"}
up: {"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"_meta":$meta}}
server> {"jsonrpc":"2.0","id":5,"result":{"resultType":"input_required","inputRequests":[]}}
host< -31007 5 the server asks for input in a form that is not valid`},
}

func TestTranslate(t *testing.T) {
	for _, c := range translations {
		t.Run(c.name, func(t *testing.T) {
			newPlay(t).run(c.script)
		})
	}
}

// A play is a translator on the stage of a script.
type play struct {
	t        *testing.T
	tr       *translator
	meta     string
	up, down []message
	others   int // bytes that count as parked by calls of which nothing else is known
}

func newPlay(t *testing.T) *play { return &play{t: t, tr: newTranslator((&ledger{prefix: "x"}).newID)} }

func (p *play) run(script string) {
	p.t.Helper()
	for line := range strings.Lines(script) {
		verb, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		text = strings.TrimSpace(strings.ReplaceAll(text, "$meta", p.meta))
		switch verb {
		case "":
		case "start":
			can, offers, _ := strings.Cut(text, " ")
			p.tr.fromClient(parsed(p.t, `{"jsonrpc":"2.0","id":"start","method":"initialize","params":{"protocolVersion":"2025-11-25","clientInfo":{"name":"old","version":"1"},"capabilities":`+can+`}}`))
			p.tr.fromServer(parsed(p.t, `{"jsonrpc":"2.0","id":"x-1","result":{"capabilities":`+offers+`}}`))
			p.meta = fmt.Sprintf(testMeta, can)
		case "host>":
			p.host(text)
		case "server>":
			p.server(text)
		case "up:":
			p.expect("up", &p.up, text)
		case "host<":
			p.expect("host<", &p.down, text)
		default:
			p.t.Fatalf("no such verb: %s", line)
		}
	}
	p.rest()
	if p.tr.parked < 0 || len(p.tr.asks) == 0 && p.tr.parked != p.others {
		p.t.Errorf("%d bytes are still accounted for", p.tr.parked)
	}
}

func (p *play) host(text string) {
	p.t.Helper()
	p.rest()
	p.up, p.down = p.tr.fromClient(parsed(p.t, text))
}

func (p *play) server(text string) {
	p.t.Helper()
	p.rest()
	p.up, p.down = p.tr.fromServer(parsed(p.t, text))
}

// rest fails for whatever nobody expected of the event before.
func (p *play) rest() {
	p.t.Helper()
	for _, m := range p.up {
		p.t.Errorf("up, but not expected: %s", m.raw)
	}
	for _, m := range p.down {
		p.t.Errorf("to the host, but not expected: %s", m.raw)
	}
	p.up, p.down = nil, nil
}

func (p *play) expect(what string, queue *[]message, text string) {
	p.t.Helper()
	if len(*queue) == 0 {
		p.t.Fatalf("nothing came for %s %s", what, text)
	}
	got := (*queue)[0]
	*queue = (*queue)[1:]
	body := written(p.t, got)
	if code, rest, ok := strings.Cut(text, " "); ok && strings.HasPrefix(code, "-") {
		id, sentence, _ := strings.Cut(rest, " ")
		data := ""
		if code == "-31007" {
			data = `,"data":{"source":"mcp-redial","reason":"not-translatable","mayHaveRun":false,"attempts":0,"elapsedMs":0}`
		}
		text = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":%s,"message":%s%s}}`, id, code, quote(sentence), data)
	}
	if diff := cmp.Diff(decoded(p.t, text), decoded(p.t, body)); diff != "" {
		p.t.Errorf("%s differs (- wanted, + got):\n%s", what, diff)
	}
	if m := parsed(p.t, body); m.kind != got.kind || m.method != got.method || m.id != got.token() || m.id != got.id {
		p.t.Errorf("the envelope of %s does not say what is written: %+v", body, got)
	}
}

func parsed(t *testing.T, text string) message {
	t.Helper()
	m, err := scan([]byte(text))
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return m
}

// quote is s as JSON.
func quote(s string) []byte {
	b, _ := json.Marshal(s)
	return b
}

func written(t *testing.T, m message) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := b.ReadFrom(m.body()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// decoded keeps the spelling of numbers and of requestState.
func decoded(t *testing.T, text string) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if state := peek([]byte(text), "params", "requestState"); state != nil {
		v["requestState as written"] = string(state)
	}
	return v
}

func TestTranslateEndlessRounds(t *testing.T) {
	p := newPlay(t)
	p.run(startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":$meta}}`)
	id := "2"
	for range maxRounds {
		up, down := p.tr.fromServer(parsed(t, `{"jsonrpc":"2.0","id":`+id+`,"result":{"resultType":"input_required","requestState":"s"}}`))
		if len(up) != 1 || len(down) != 0 || up[0].id == id {
			t.Fatalf("up %v, down %v", up, down)
		}
		id = up[0].id
	}
	p.run(`server> {"jsonrpc":"2.0","id":` + id + `,"result":{"resultType":"input_required","requestState":"s"}}
host< -31007 2 the server asked for input more than 10 times`)
}

func TestTranslateBounds(t *testing.T) {
	t.Parallel()
	t.Run("questions at once", func(t *testing.T) {
		p := newPlay(t)
		p.run(startAll + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":$meta}}`)
		var asks []string
		for i := range maxAsks + 1 {
			asks = append(asks, fmt.Sprintf(`"%d":{"method":"roots/list"}`, i))
		}
		ask := func(n int) string {
			return `server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","inputRequests":{` + strings.Join(asks[:n], ",") + `}}}`
		}
		p.run(ask(maxAsks+1) + "\nhost< -31007 2 " + tooMuch)
		p.run(`host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":` + p.meta + `}}`)
		_, down := p.tr.fromServer(parsed(t, strings.TrimPrefix(ask(maxAsks), "server> ")))
		if len(down) != maxAsks {
			t.Errorf("%d questions, want %d", len(down), maxAsks)
		}
		_, down = p.tr.fromClient(parsed(t, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}`))
		if len(down) != maxAsks || len(p.tr.asks) != 0 || p.tr.parked != 0 {
			t.Errorf("%d taken back, %d open, %d bytes", len(down), len(p.tr.asks), p.tr.parked)
		}
	})
	t.Run("bytes of answers", func(t *testing.T) {
		p := newPlay(t)
		p.run(startAll + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"roots/list"},"b":{"method":"roots/list"}}}}
host< {"jsonrpc":"2.0","id":"x-2","method":"roots/list","params":{}}
host< {"jsonrpc":"2.0","id":"x-3","method":"roots/list","params":{}}`)
		p.others = maxParked - 1<<20
		p.tr.parked += p.others
		fits := maxParked - p.tr.parked - len(`{"roots":[],"x":""}`)
		big := `{"jsonrpc":"2.0","id":"x-2","result":{"roots":[],"x":"` + strings.Repeat("x", fits) + `"}}`
		p.run("host> " + big)
		p.run(`host> {"jsonrpc":"2.0","id":"x-3","result":{"roots":[]}}
host< -31007 2 ` + tooMuch)
	})
	t.Run("depth of answers", func(t *testing.T) {
		p := newPlay(t)
		p.run(startAll + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":$meta}}
server> {"jsonrpc":"2.0","id":2,"result":{"resultType":"input_required","inputRequests":{"a":{"method":"roots/list"}}}}
host< {"jsonrpc":"2.0","id":"x-2","method":"roots/list","params":{}}
host> {"jsonrpc":"2.0","id":"x-2","result":{"roots":` + strings.Repeat("[", maxDepth-2) + strings.Repeat("]", maxDepth-2) + `}}
host< -31007 2 the client's answers are nested too deeply`)
	})
	t.Run("uris", func(t *testing.T) {
		p := newPlay(t)
		p.run(startPlain)
		up, _ := p.tr.fromClient(parsed(t, `{"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"`+strings.Repeat("u", maxURIs)+`"}}`))
		if len(up) != 1 {
			t.Fatalf("a subscription at the bound was not sent")
		}
		p.run(`host> {"jsonrpc":"2.0","id":3,"method":"resources/subscribe","params":{"uri":"v"}}
host< {"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"more subscriptions than can be kept"}}`)
	})
	t.Run("subscriptions that wait", func(t *testing.T) {
		p := newPlay(t)
		p.run(startPlain)
		line := func(id int) message {
			return parsed(t, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"resources/subscribe","params":{"uri":"%s"}}`, id, strings.Repeat("u", maxURIs/4)))
		}
		for id := 101; id <= 107; id++ { // an eighth would be more than twice maxURIs
			if up, down := p.tr.fromClient(line(id)); len(up) == 0 || len(down) != 0 {
				t.Fatalf("the subscription %d was not sent", id)
			}
		}
		if up, down := p.tr.fromClient(line(108)); len(up) != 0 || len(down) != 1 || errorCode(down[0].raw) != -32602 {
			t.Errorf("one more gave %d up and %d down", len(up), len(down))
		}
	})
	t.Run("streams that the server ends", func(t *testing.T) {
		p := newPlay(t)
		p.run(`start {} {"tools":{"listChanged":true}}`)
		up, _ := p.tr.fromClient(parsed(t, `{"jsonrpc":"2.0","method":"notifications/initialized"}`))
		opened := 0
		for len(up) > 0 {
			opened++
			id := up[len(up)-1].id
			p.tr.fromServer(parsed(t, `{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":`+id+`}}}`))
			up, _ = p.tr.fromServer(parsed(t, `{"jsonrpc":"2.0","id":`+id+`,"result":{}}`))
		}
		if opened != maxReopens+1 {
			t.Errorf("opened %d times, want %d", opened, maxReopens+1)
		}
	})
}

// TestTranslateCharges holds the contract about memory: of what goes out at most one message has the charge that came in.
func TestTranslateCharges(t *testing.T) {
	c := charge{bytes: 100}
	charged := func(text string) message {
		m := parsed(t, text)
		m.charge = c
		return m
	}
	for _, test := range translations {
		t.Run(test.name, func(t *testing.T) {
			p := newPlay(t)
			for line := range strings.Lines(test.script) {
				verb, text, _ := strings.Cut(strings.TrimSpace(line), " ")
				text = strings.ReplaceAll(text, "$meta", p.meta)
				var up, down []message
				switch verb {
				case "start":
					p.run(line)
				case "host>":
					up, down = p.tr.fromClient(charged(text))
				case "server>":
					up, down = p.tr.fromServer(charged(text))
				}
				n := 0
				for _, m := range slices.Concat(up, down) {
					if m.charge == c {
						n++
					} else if m.charge != (charge{}) {
						t.Errorf("a charge from nowhere: %+v", m.charge)
					}
				}
				if n > 1 {
					t.Errorf("%d messages have the charge of %s", n, line)
				}
			}
		})
	}
}

// TestTranslateUntouched says that what needs no change is not copied.
func TestTranslateUntouched(t *testing.T) {
	p := newPlay(t)
	p.run(startPlain + `
host> {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}
up: {"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":$meta}}`)
	for _, text := range []string{
		`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":2}}`,
		`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}`,
		`{"jsonrpc":"2.0","id":2,"result":{"content":[]}}`,
	} {
		m := parsed(t, text)
		_, down := p.tr.fromServer(m)
		if len(down) != 1 || &down[0].raw[0] != &m.raw[0] {
			t.Errorf("copied: %s", text)
		}
	}
}

func FuzzTranslate(f *testing.F) {
	for _, c := range translations {
		f.Add(c.script)
	}
	f.Fuzz(func(t *testing.T, script string) {
		tr := newTranslator((&ledger{prefix: "x"}).newID)
		for line := range strings.Lines(script) {
			verb, text, _ := strings.Cut(strings.TrimSpace(line), " ")
			m, err := scan([]byte(text))
			if err != nil {
				continue
			}
			var up, down []message
			switch verb {
			case "host>":
				up, down = tr.fromClient(m)
			case "server>":
				up, down = tr.fromServer(m)
			}
			for _, m := range slices.Concat(up, down) {
				text := written(t, m)
				if again, err := scan([]byte(text)); err != nil || again.kind != m.kind || again.id != m.token() {
					t.Fatalf("%v: made of %s: %s", err, line, text)
				}
			}
			if tr.parked < 0 || tr.parked > maxParked+len(script) {
				t.Fatalf("%d bytes parked", tr.parked)
			}
		}
	})
}
