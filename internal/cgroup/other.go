//go:build !linux

package cgroup

import (
	"context"
	"errors"
	"time"
)

var errMissing = errors.New("control groups are Linux's")

// Unit is none here.
type Unit struct{}

// Own is none here.
func Own() *Unit { return nil }

// Around is none here.
func Around() *Unit { return nil }

// Delegated is false here.
func (u *Unit) Delegated() bool { return false }

// Name is empty here.
func (u *Unit) Name() string { return "" }

// Processes are none here.
func (u *Unit) Processes() (map[int]int, error) { return nil, nil }

// Groups are none here.
func (u *Unit) Groups() []*Group { return nil }

// Group is empty here.
func (u *Unit) Group(int) *Group { return &Group{} }

// Vacate does nothing here.
func (u *Unit) Vacate() error { return nil }

// Group is none here.
type Group struct{}

// Number is 0 here.
func (g *Group) Number() int { return 0 }

// Make says that there are none here.
func (g *Group) Make() (string, error) { return "", errMissing }

// Limit says that there are none here.
func (g *Group) Limit(uint64) error { return errMissing }

// Processes are none here.
func (g *Group) Processes() ([]int, error) { return nil, nil }

// Kill says that there are none here.
func (g *Group) Kill() error { return errMissing }

// End says that there are none here.
func (g *Group) End(context.Context, time.Duration) error { return errMissing }

// Remove says that there are none here.
func (g *Group) Remove() error { return errMissing }

// Figures are empty here.
func (g *Group) Figures() Figures { return Figures{} }

// Kills are not counted here.
func (g *Group) Kills() (Kills, bool) { return Kills{}, false }
