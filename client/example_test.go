package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/gatewarden/gatewarden/client"
)

// The whole way of a tool that rotates a token: which container, the restart, and what came of it.
func ExampleClient_Restart() {
	c, err := client.New(client.Options{Via: "rotate-token"})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	receipt, err := c.Restart(ctx, client.Ref{Namespace: "default", ID: "web"}, client.Action{
		Reason:    "rotated the token",
		RequestID: "ticket-4711", // a repetition, by whatever it comes, does nothing and gives the first receipt
		Progress:  func(p client.Progress) { log.Printf("%s %s", p.Stage, p.Text) },
	})
	if e, ok := errors.AsType[*client.Error](err); ok {
		switch {
		case e.Code == client.CodeNotManaged:
			log.Print("there is no such gateway any more")
			return
		case e.Retryable:
			log.Printf("later: %v", e)
			return
		case receipt != nil && receipt.Outcome == client.OutcomeRefused:
			log.Fatalf("it was not touched: %v", e)
		}
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("pid %d, ready in %.1f ms\n", receipt.New.PID, receipt.Millis.Total)
}

// Every gateway of the host that is not well, without waking a warden.
func ExampleClient_List() {
	c, err := client.New(client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	all, err := c.List(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range all {
		if s.State != client.StateRunning || s.Healthy != nil && !*s.Healthy {
			fmt.Printf("%s: %s %s\n", s.Container.Ref(), s.State, s.Code)
		}
	}
}

// A reader of all that is done on the host, which goes on where it was when it is started again.
func ExampleClient_Events() {
	c, err := client.New(client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	var since string // as kept by the reader; "": only what is new
	for e, err := range c.Events(context.Background(), since) {
		switch {
		case err != nil:
			log.Fatal(err)
		case e.Gap != nil:
			log.Printf("receipts up to number %d were rotated away before they could be read", e.Gap.To)
		default:
			fmt.Println(e.Receipt.Container.Ref(), e.Receipt.Action, e.Receipt.Outcome)
			since = e.Receipt.ID
		}
	}
}

// Looking before changing a configuration.
func ExampleClient_Apply() {
	c, err := client.New(client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	web, err := c.Find("web")
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	configs := []client.Config{{Source: "/root/nginx-new"}}
	plan, err := c.PlanApply(ctx, web, configs, client.Action{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan.Diff)
	_, err = c.Apply(ctx, web, configs, client.Action{Reason: "ticket 4711", IfGeneration: &plan.Current})
	if e, ok := errors.AsType[*client.Error](err); ok && e.Code == client.CodeRolledBack {
		log.Fatalf("the one before runs again: %v", e)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// What the gateway wrote last.
func ExampleClient_Logs() {
	c, err := client.New(client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	for line, err := range c.Logs(context.Background(), client.Ref{Namespace: "default", ID: "web"}, 20, false) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s %q\n", line.Stream, line.Text) // %q: the gateway's own bytes
	}
}

// A Ref is printed, and typed by people, as NAMESPACE/ID.
func ExampleRef() {
	fmt.Println(client.Ref{Namespace: "k8s.io", ID: "4f2a"})
	// Output: k8s.io/4f2a
}
