package tpm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
)

// answerTimeout bounds one use of a TPM behind a socket. The kernel bounds those of a device.
const answerTimeout = 30 * time.Second

// ErrUnavailable is wrapped by what found no TPM to ask, or none that answers.
var ErrUnavailable = errors.New("the TPM cannot be used")

// open connects to a TPM: a device such as /dev/tpmrm0, or the Unix socket of one in software.
func open(path string) (transport.TPMCloser, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s does not exist: is there a TPM 2.0, is it on in the firmware, is its driver loaded? %w", path, ErrUnavailable)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrUnavailable)
	}
	var rw io.ReadWriteCloser
	switch {
	case info.Mode()&fs.ModeSocket != 0:
		rw, err = dial(path)
	case info.Mode()&fs.ModeCharDevice != 0:
		rw, err = os.OpenFile(path, os.O_RDWR, 0)
	default:
		return nil, fmt.Errorf("%s is neither a device nor a socket: name a TPM, such as /dev/tpmrm0: %w", path, ErrUnavailable)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s is not for the user of this process: add it to the group of that file, most often tss: %w", path, ErrUnavailable)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrUnavailable)
	}
	return transport.FromReadWriteCloser(rw), nil
}

func dial(path string) (io.ReadWriteCloser, error) {
	conn, err := net.DialTimeout("unix", path, answerTimeout)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}
