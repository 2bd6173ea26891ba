// Package tpm keeps one P-256 key in a TPM 2.0: it is made there, its private half never leaves it, and what others
// encrypt to the public half is opened by asking the TPM for the agreed secret.
//
// The common case is
//
//	key, err := tpm.Create("/dev/tpmrm0") // once; key.PEM() goes into a file
//	key, err := tpm.Parse("/dev/tpmrm0", text)
//	err = key.Check()                     // is this still the TPM that made it?
//	hpke.NewDHKEMPrivateKey(key)          // a Key is an ecdh.KeyExchanger
//
// The file holds what the TPM gave out: the public half, and the private one encrypted by the storage key of the owner
// hierarchy, which is derived from the TPM's seed at each use (the P-256 template that the TCG names, with an empty
// unique field). So nothing is stored in the TPM and no handle of it is occupied. The file opens nothing on another
// TPM, nor on this one after it was cleared: both are ErrOther. Its form is the usual one for such keys, PEM with the
// label TSS2 PRIVATE KEY, so that other tools can show it.
//
// What the TPM answers is encrypted for the caller by a session whose salt only the storage key can read, so that who
// listens on the bus learns no secret. Who sits in the bus and changes what passes could still claim to be the TPM.
//
// A Key is safe for concurrent use; one question at a time goes to the TPM. A device is opened for each use and closed
// after it.
package tpm
