// An echo server on Go's net package, with a goroutine for each connection.
//
//	echo ROLE [PATH]
//
// The roles are those of job.py; PATH is that of a Unix socket.
package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"os"
	"time"
)

const blockSize = 64 * 1024

func echo(connection net.Conn) {
	buffer := make([]byte, 4096)
	for {
		count, err := connection.Read(buffer)
		if err != nil {
			return
		}
		if _, err := connection.Write(buffer[:count]); err != nil {
			return
		}
		if count == len(buffer) && count < blockSize {
			buffer = make([]byte, blockSize)
		}
	}
}

func lines(connection net.Conn) {
	reader, writer := bufio.NewReader(connection), bufio.NewWriter(connection)
	for {
		line, err := reader.ReadBytes('\n')
		if err != nil {
			return
		}
		if _, err := writer.Write(line); err != nil {
			return
		}
		if reader.Buffered() == 0 && writer.Flush() != nil {
			return
		}
	}
}

func once(connection net.Conn) {
	buffer := make([]byte, 4096)
	if count, err := connection.Read(buffer); err == nil {
		connection.Write(buffer[:count])
	}
}

func upload(connection net.Conn) {
	count, err := io.CopyBuffer(io.Discard, connection, make([]byte, blockSize))
	if err == nil {
		fmt.Fprintln(connection, count)
	}
}

func datagrams() {
	connection, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(connection.LocalAddr().(*net.UDPAddr).Port)
	buffer := make([]byte, blockSize)
	for {
		count, address, err := connection.ReadFromUDPAddrPort(buffer)
		if err != nil {
			log.Fatal(err)
		}
		connection.WriteToUDPAddrPort(buffer[:count], address)
	}
}

func listen(path string) net.Listener {
	network, address := "tcp", "127.0.0.1:0"
	if path != "" {
		network, address = "unix", path
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		log.Fatal(err)
	}
	if path != "" {
		fmt.Println(path)
	} else {
		fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	}
	return listener
}

// The role without its encryption, and whether there is one.
func roles(role string) (string, bool) {
	switch role {
	case "tls":
		return "echo", true
	case "tls-connects":
		return "connects", true
	}
	return role, false
}

// A certificate of its own, signed by itself.
func makeCertificate() []tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	return []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}
}

func main() {
	role, path := os.Args[1], ""
	if len(os.Args) > 2 {
		path = os.Args[2]
	}
	if role == "datagrams" {
		datagrams()
	}
	role, encrypted := roles(role)
	handlers := map[string]func(net.Conn){
		"echo": echo, "lines": lines, "connects": once, "upload": upload,
	}
	handle, known := handlers[role]
	if !known {
		log.Fatalf("unknown role %q", role)
	}
	listener := listen(path)
	if encrypted {
		listener = tls.NewListener(listener, &tls.Config{Certificates: makeCertificate()})
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer connection.Close()
			handle(connection)
		}()
	}
}
