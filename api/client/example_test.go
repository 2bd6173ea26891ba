package client_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"sync"

	"github.com/parley-mesh/parley/api/client"
)

// identity stands for the program's certificate of the trust domain.
func identity() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS13} }

// Any number of goroutines share one Client, and its connections.
func Example_manyCallers() {
	c, err := client.New("rpc://127.0.0.1:8310", client.WithTLS(identity()), client.WithConnections(2))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	var callers sync.WaitGroup
	for i := range 512 {
		callers.Go(func() {
			if _, err := c.Put(context.Background(), fmt.Sprintf("load/%d", i), []byte("v"), client.PutOptions{}); err != nil {
				log.Print(err)
			}
		})
	}
	callers.Wait()
}

// One stream tells of many keys. Revision is what a subscription resumes from on another stream.
func ExampleClient_OpenWatches() {
	c, err := client.New("rpc://127.0.0.1:8310", client.WithTLS(identity()))
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	w, err := c.OpenWatches(ctx, func(n client.Notice) { fmt.Println(n.ID, n.Revision, n.Pair, n.More) })
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(ctx,
		client.Subscription{ID: 1, Key: "web/limits", Values: true},
		client.Subscription{ID: 2, Key: "db/", Prefix: true, After: 17},
	); err != nil {
		log.Print(err)
		return
	}
	<-w.Done()
	log.Print(w.Err())
}
