// Naive is the floor that the benchmark measures the bridge against: it copies lines between stdio and a
// server, and does nothing else. It keeps no session, retries nothing, checks nothing and bounds nothing.
//
//	naive http URL    Streamable HTTP
//	naive sse URL     HTTP+SSE
package main

import (
	"bufio"
	"bytes"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
)

var (
	client = http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
	mu     sync.Mutex
	out    = bufio.NewWriterSize(struct{ io.Writer }{os.Stdout}, 64<<10)
)

func main() {
	to := os.Args[2]
	if os.Args[1] == "sse" {
		resp, err := client.Get(to)
		if err != nil {
			log.Fatal(err)
		}
		endpoint := make(chan string)
		go events(resp.Body, endpoint)
		base, _ := url.Parse(to)
		u, _ := base.Parse(<-endpoint)
		to = u.String()
	}
	for in := bufio.NewReaderSize(os.Stdin, 64<<10); ; {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		go post(to, line)
	}
}

func post(to string, line []byte) {
	req, _ := http.NewRequest("POST", to, bytes.NewReader(line))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := client.Do(req)
	if err != nil {
		log.Print(err)
		return
	}
	defer resp.Body.Close()
	switch kind := resp.Header.Get("Content-Type"); {
	case strings.HasPrefix(kind, "text/event-stream"):
		events(resp.Body, nil)
	case resp.StatusCode == 200:
		mu.Lock()
		io.Copy(out, resp.Body)
		out.WriteByte('\n')
		out.Flush()
		mu.Unlock()
	}
}

func events(body io.Reader, endpoint chan<- string) {
	for r := bufio.NewReaderSize(body, 64<<10); ; {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok && endpoint != nil {
			endpoint <- strings.TrimSpace(string(data))
			endpoint = nil
		} else if ok {
			mu.Lock()
			out.Write(data)
			out.Flush()
			mu.Unlock()
		}
	}
}
